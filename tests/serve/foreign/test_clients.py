"""Clients that others wrote, unchanged and in an environment of their own, against a live server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from secateur.serve.process import ServerProcess
from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.open_inference.tensors import INPUTS, OUTPUTS
from tests.serve.foreign.installed import node_clients, python_clients
from tests.serve.foreign.running import HERE, PROMPT, ROOT, continuation, run

pytestmark = pytest.mark.slow

MODEL = "slim"


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> str:
    return continuation(server.address, MODEL)


def test_tritonclient(server: ServerProcess, expected: str) -> None:
    seen = run(python_clients() / "python", HERE / "use_tritonclient.py", server.address, MODEL)
    assert seen["live"] and seen["ready"] and seen["model_ready"]
    assert seen["server"]["name"] == "secateur"
    assert [tensor["name"] for tensor in seen["metadata"]["inputs"]] == list(INPUTS)
    assert [tensor["name"] for tensor in seen["config"]["output"]] == list(OUTPUTS)
    assert seen["config"]["model_transaction_policy"] == {"decoupled": True}
    assert seen["index"]["models"] == [{"name": MODEL, "version": "1", "state": "READY"}]
    assert seen["infer"] | {"cumulative_logprob": 0} == {
        "text": expected, "id": "one", "version": "1", "finish_reason": "length", "cumulative_logprob": 0,
        "num_output_tokens": 12,
    }  # fmt: skip
    assert seen["infer"]["cumulative_logprob"] < 0
    assert seen["async_infer"] == seen["parameters"] == expected
    assert seen["stream"] == {
        "texts": {"a": expected, "b": expected},
        "errors": ["sampling_parameters.top_p: got 7, allowed is above 0 to 1"],
        "whole": PROMPT + expected,
    }
    assert seen["cancelled"] == "StatusCode.CANCELLED"
    status, message = seen["errors"]["unknown_model"]
    assert status == "StatusCode.NOT_FOUND"
    assert "no model 'nobody'; there are: slim" in message
    assert seen["errors"]["no_text"][0] == "StatusCode.INVALID_ARGUMENT"
    assert seen["errors"]["shared_memory"][0] == "StatusCode.UNIMPLEMENTED"
    assert seen["errors"]["deadline"][0] == "StatusCode.DEADLINE_EXCEEDED"
    assert seen["statistics"]["success"] >= 6


def test_tritonclient_aio(server: ServerProcess, expected: str) -> None:
    seen = run(python_clients() / "python", HERE / "use_tritonclient_aio.py", server.address, MODEL)
    assert seen["ready"] and seen["cancelled"]
    assert seen["infer"] == seen["stream"] == expected
    assert seen["stream_errors"] == ["inputs[text_input]: missing"]
    assert seen["unknown_model"][0] == "StatusCode.NOT_FOUND"


def test_kserve(server: ServerProcess, expected: str) -> None:
    seen = run(python_clients() / "python", HERE / "use_kserve.py", server.address, MODEL)
    assert seen["live"] and seen["ready"] and seen["model_ready"]
    assert seen["typed"] == seen["raw"] == expected
    assert seen["unknown_ready"][0] == seen["unknown_infer"][0] == seen["unknown_load"][0] == "NOT_FOUND"
    assert seen["loaded"] == [MODEL, True]


@pytest.mark.parametrize("client", ["tritonclient.grpc", "kserve"])
def test_our_stubs_on_protobuf_6_beside_another_package_inference(
    server: ServerProcess, expected: str, client: str
) -> None:
    python, script = python_clients() / "python", HERE / "use_stubs.py"
    seen = run(python, script, server.address, MODEL, client, PYTHONPATH=str(ROOT / "engine"))
    assert seen.pop("protobuf").startswith("6.")
    assert seen == {"text": expected, "models": [MODEL], "wire": True}


def without_json_names(message: DescriptorProto) -> None:
    """Leave out what descriptors in generated code do not have."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        without_json_names(nested)


def test_vendored_protos_are_those_of_tritonclient() -> None:
    theirs = run(python_clients() / "python", HERE / "print_descriptors.py")
    for name, serialized in theirs.items():
        expected = FileDescriptorProto.FromString(bytes.fromhex(serialized))
        ours = FileDescriptorProto()
        wire.POOL.FindFileByName(name).CopyToProto(ours)
        for message in ours.message_type:
            without_json_names(message)
        assert ours == expected


def test_buf_curl_by_reflection(server: ServerProcess, expected: str, tmp_path: Path) -> None:
    buf = python_clients() / "buf"

    def curl(method: str, request: dict[str, Any]) -> Any:
        url = f"http://{server.address}/{method}"
        options = ("--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(request))
        return run(buf, "curl", *options, url, HOME=str(tmp_path))

    sampling = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    ours = {"model": MODEL, "text": PROMPT, "sampling": sampling}
    answer = curl("secateur.v1.InferenceService/Generate", ours)
    assert answer["completions"][0]["text"] == expected
    assert curl("inference.GRPCInferenceService/ServerReady", {}) == {"ready": True}
    config = curl("inference.GRPCInferenceService/ModelConfig", {"name": MODEL})["config"]
    assert config["modelTransactionPolicy"] == {"decoupled": True}


def test_grpc_js(server: ServerProcess, expected: str) -> None:
    folder = node_clients()
    script = HERE / "use_grpc.js"
    seen = run("node", script, server.address, MODEL, ROOT / "proto", NODE_PATH=str(folder / "node_modules"))
    assert seen["stream"] == seen["open_inference"] == expected
    assert seen["finish_reason"] == "FINISH_REASON_LENGTH"
    assert (seen["cancelled"], seen["deadline"]) == ("CANCELLED", "DEADLINE_EXCEEDED")
    assert (seen["unknown_model"], seen["details"]) == ("NOT_FOUND", 1)
