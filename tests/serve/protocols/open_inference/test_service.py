"""Every call of inference.GRPCInferenceService, through real sockets and real vLLM."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from secateur.client import Client
from secateur.serve.process import ServerProcess
from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.open_inference.tensors import INPUTS, OUTPUTS
from secateur.v1 import inference_pb2, inference_pb2_grpc
from tests.serve.protocols.open_inference.calls import Calls, outputs, reason_of, request, text_of
from tests.waiting import eventually

PROMPT = "The quick brown fox"
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}
ENDLESS = GREEDY | {"max_tokens": 480}
OWN = {"exclude_input_in_output": True}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60) as connected:
        yield connected


def idle(client: Client) -> bool:
    counters = client.models.get("slim").counters
    return (counters.running_requests, counters.waiting_requests, counters.kv_cache_usage) == (0, 0, 0.0)


def message(kind: str, /, **fields: Any) -> Any:
    return wire.message(kind)(**fields)


def stream(calls: Any, *requests: Any) -> list[Any]:
    return list(calls.ModelStreamInfer(iter(requests), timeout=60))


def final(response: Any) -> bool:
    return bool(response.infer_response.parameters["triton_final_response"].bool_param)


def test_unary_gives_what_our_own_service_gives(calls: Any, server: ServerProcess) -> None:
    ours = inference_pb2.GenerateRequest(model="slim", text=PROMPT)
    ours.sampling.temperature, ours.sampling.ignore_eos, ours.sampling.max_tokens = 0, True, 12
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        expected = stub.Generate(ours, timeout=60).completions[0].text
    response = calls.ModelInfer(request(PROMPT, id="7", sampling_parameters=GREEDY, **OWN), timeout=60)
    assert text_of(response) == expected
    assert (response.id, response.model_name, response.model_version) == ("7", "slim", "1")
    assert final_parameter(response)
    with_prompt = calls.ModelInfer(request(PROMPT, sampling_parameters=GREEDY), timeout=60)
    assert text_of(with_prompt) == PROMPT + expected


def final_parameter(response: Any) -> bool:
    return bool(response.parameters["triton_final_response"].bool_param)


@pytest.mark.parametrize("raw", [False, True], ids=["contents", "raw"])
def test_stream_adds_up_to_the_unary_answer_in_every_output(calls: Any, raw: bool) -> None:
    wanted = {name: True for name in INPUTS if name.startswith("return_")} | OWN
    given = {"raw": raw, "sampling_parameters": GREEDY | {"logprobs": 2}, **wanted}
    whole = outputs(calls.ModelInfer(request(PROMPT, **given), timeout=60))
    responses = stream(calls, request(PROMPT, id="a", stream=True, **given))
    assert len(responses) > 1
    assert [final(response) for response in responses] == [False] * (len(responses) - 1) + [True]
    assert {response.infer_response.id for response in responses} == {"a"}
    parts = [outputs(response.infer_response) for response in responses]
    assert list(whole) == list(OUTPUTS)
    assert all(list(part) == list(OUTPUTS) for part in parts)
    assert "".join(part["text_output"][0] for part in parts) == whole["text_output"][0]
    assert [part["finish_reason"] for part in parts[:-1]] == [["None"]] * (len(parts) - 1)
    assert parts[-1]["finish_reason"] == whole["finish_reason"] == ["length"]
    assert sum(part["num_output_tokens"][0] for part in parts) == whole["num_output_tokens"][0] == 12
    assert {part["num_input_tokens"][0] for part in (*parts, whole)} == {whole["num_input_tokens"][0]}
    assert parts[-1]["cumulative_logprob"] == pytest.approx(whole["cumulative_logprob"], rel=1e-4)
    logprobs = json.loads(whole["logprobs"][0])
    assert sum(len(json.loads(part["logprobs"][0])) for part in parts) == len(logprobs) == 12
    best = [max(candidate["logprob"] for candidate in token.values()) for token in logprobs]
    assert whole["cumulative_logprob"][0] == pytest.approx(sum(best), rel=1e-4)  # greedy
    assert all(
        set(one) == {"logprob", "rank", "decoded_token"} for token in logprobs for one in token.values()
    )
    assert all(min(one["rank"] for one in token.values()) == 1 for token in logprobs)


def test_several_completions_are_elements_of_each_output(calls: Any) -> None:
    given = {"sampling_parameters": {"n": 3, "max_tokens": 5, "ignore_eos": True, "seed": 1}, **OWN}
    whole = outputs(calls.ModelInfer(request(return_num_output_tokens=True, **given), timeout=60))
    assert whole["num_output_tokens"] == [5, 5, 5]
    parts = [outputs(one.infer_response) for one in stream(calls, request(stream=True, **given))]
    texts = ["".join(part["text_output"][index] for part in parts) for index in range(3)]
    assert texts == whole["text_output"]


def test_requests_on_one_stream_run_side_by_side_and_errors_leave_it_open(calls: Any) -> None:
    sent: queue.Queue[Any] = queue.Queue()
    responses = calls.ModelStreamInfer(iter(sent.get, None), timeout=60)
    sent.put(request(id="long", stream=True, sampling_parameters=ENDLESS))
    first = next(responses)
    assert first.infer_response.id == "long"
    sent.put(request(id="bad", stream=True, sampling_parameters={"temperature": 9}))
    sent.put(request(id="unknown", model_name="nobody"))
    sent.put(request(id="short", stream=True, sampling_parameters=GREEDY))
    sent.put(request(id="whole", sampling_parameters=GREEDY))
    sent.put(None)
    last: dict[str, Any] = {}
    order = []
    for response in responses:
        if final(response):
            order.append(response.infer_response.id)
            last[response.infer_response.id] = response
    assert set(order) == {"long", "bad", "unknown", "short", "whole"}
    assert order[-1] == "long"
    assert last["bad"].error_message == "sampling_parameters.temperature: got 9, allowed is 0 to 2"
    assert last["bad"].infer_response.parameters["error_code"].string_param == "INVALID_ARGUMENT"
    assert "no model 'nobody'" in last["unknown"].error_message
    assert last["unknown"].infer_response.parameters["error_reason"].string_param == "MODEL_NOT_FOUND"
    assert not any(last[name].error_message for name in ("long", "short", "whole"))


def test_cancelling_a_stream_ends_all_its_requests(calls: Any, client: Client) -> None:
    sent: queue.Queue[Any] = queue.Queue()
    responses = calls.ModelStreamInfer(iter(sent.get, None), timeout=60)
    for name in "abc":
        sent.put(request(id=name, stream=True, sampling_parameters=ENDLESS))
    seen: set[str] = set()
    while len(seen) < 3:
        seen.add(next(responses).infer_response.id)
    responses.cancel()
    sent.put(None)
    assert eventually(lambda: idle(client), 3)
    assert text_of(calls.ModelInfer(request(sampling_parameters=GREEDY), timeout=60))


def test_cancelling_and_running_out_of_time_end_a_unary_call(calls: Any, client: Client) -> None:
    long = request(sampling_parameters=ENDLESS)
    call = calls.ModelInfer.future(long, timeout=60)
    assert eventually(lambda: client.models.get("slim").counters.running_requests == 1)
    call.cancel()
    assert eventually(lambda: idle(client), 3)
    with pytest.raises(grpc.RpcError) as caught:
        calls.ModelInfer(long, timeout=0.15)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert eventually(lambda: idle(client), 3)


def test_timeout_parameter_ends_one_request(calls: Any, client: Client) -> None:
    given = {"sampling_parameters": ENDLESS, "parameters": {"timeout": 100_000}}
    with pytest.raises(grpc.RpcError) as caught:
        calls.ModelInfer(request(**given), timeout=60)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason_of(caught.value) == "TIMEOUT"
    *parts, last = stream(calls, request(stream=True, **given))
    assert parts
    assert not any(part.error_message for part in parts)
    assert "timeout of 0.1 s" in last.error_message
    assert eventually(lambda: idle(client), 3)


def test_server_and_model_say_what_they_are(calls: Any) -> None:
    assert calls.ServerLive(message("ServerLiveRequest")).live
    assert calls.ServerReady(message("ServerReadyRequest")).ready
    assert calls.ModelReady(message("ModelReadyRequest", name="slim")).ready
    assert calls.ModelReady(message("ModelReadyRequest", name="slim", version="1")).ready
    server = calls.ServerMetadata(message("ServerMetadataRequest"))
    assert (server.name, "statistics" in server.extensions) == ("secateur", True)
    model = calls.ModelMetadata(message("ModelMetadataRequest", name="slim"))
    assert (model.name, list(model.versions), model.platform) == ("slim", ["1"], "vllm")
    assert [tensor.name for tensor in model.inputs] == list(INPUTS)
    assert [(tensor.name, tensor.datatype) for tensor in model.outputs][2] == ("cumulative_logprob", "FP32")
    config = calls.ModelConfig(message("ModelConfigRequest", name="slim")).config
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert config.parameters["architecture"].string_value == "SecateurForCausalLM"
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["text_input"]


def test_statistics_count_what_happened(calls: Any) -> None:
    def counted() -> Any:
        (one,) = calls.ModelStatistics(message("ModelStatisticsRequest", name="slim")).model_stats
        return one

    before = counted()
    started = time.time()
    for _ in range(2):
        calls.ModelInfer(request(sampling_parameters=GREEDY), timeout=60)
    stream(calls, request(stream=True, sampling_parameters=GREEDY), request(sampling_parameters="{"))
    seconds = time.time() - started
    after = counted()
    grown = {
        name: getattr(after.inference_stats, name).count - getattr(before.inference_stats, name).count
        for name in ("success", "fail", "queue", "compute_infer")
    }
    assert grown == {"success": 3, "fail": 1, "queue": 3, "compute_infer": 3}
    spent = after.inference_stats.success.ns - before.inference_stats.success.ns
    computed = after.inference_stats.compute_infer.ns - before.inference_stats.compute_infer.ns
    assert 0 < computed < spent < 1e9 * seconds
    assert after.inference_count - before.inference_count == 3
    assert abs(after.last_inference / 1e3 - time.time()) < 60


def test_index_lists_the_versions(calls: Any) -> None:
    index = calls.RepositoryIndex(message("RepositoryIndexRequest"))
    assert [(one.name, one.version, one.state, one.reason) for one in index.models] == [
        ("slim", "1", "READY", "")
    ]


def engine_connections(server: ServerProcess) -> int:
    """Threads of ZeroMQ in the server: each connection to an engine has some."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum("ZMQbg" in (task / "comm").read_text() for task in tasks)


def test_a_version_is_unloaded_and_loaded_again(calls: Any, server: ServerProcess) -> None:
    connections = engine_connections(server)
    down, up = unload("slim"), load("slim", version="1")
    down.parameters["unload_dependents"].bool_param = False  # tritonclient always says it
    running = calls.ModelStreamInfer(iter([request(stream=True, sampling_parameters=ENDLESS)]), timeout=60)
    next(running)
    calls.RepositoryModelUnload(down, timeout=60)
    *_, last = running
    assert final(last)
    assert not last.error_message  # it was finished first
    (one,) = calls.RepositoryIndex(message("RepositoryIndexRequest")).models
    assert (one.state, one.reason) == ("UNAVAILABLE", "unloaded")
    assert not calls.RepositoryIndex(message("RepositoryIndexRequest", ready=True)).models
    assert not calls.ModelReady(message("ModelReadyRequest", name="slim")).ready
    assert not calls.ModelMetadata(message("ModelMetadataRequest", name="slim")).versions
    with pytest.raises(grpc.RpcError) as caught:
        calls.ModelInfer(request(), timeout=60)
    assert (caught.value.code().name, reason_of(caught.value)) == (
        "FAILED_PRECONDITION",
        "VERSION_NOT_LOADED",
    )
    calls.RepositoryModelUnload(down, timeout=60)  # once more does no harm
    assert engine_connections(server) == 0 < connections  # nothing of the engine is left

    calls.RepositoryModelLoad(up, timeout=60)
    assert calls.ModelReady(message("ModelReadyRequest", name="slim")).ready
    assert text_of(calls.ModelInfer(request(sampling_parameters=GREEDY), timeout=60))
    calls.RepositoryModelLoad(up, timeout=60)


def load(name: str, kind: str = "Load", repository_name: str = "", **parameters: str) -> Any:
    made = message(f"RepositoryModel{kind}Request", model_name=name, repository_name=repository_name)
    for parameter, value in parameters.items():
        made.parameters[parameter].string_param = value
    return made


def unload(name: str, **parameters: str) -> Any:
    return load(name, "Unload", **parameters)


NOBODY = {"name": "nobody"}
NO_VERSION = {"name": "slim", "version": "9"}
BAD = [
    ("ModelReady", message("ModelReadyRequest", **NOBODY), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("ModelReady", message("ModelReadyRequest", **NO_VERSION), "NOT_FOUND", "VERSION_NOT_FOUND"),
    ("ModelMetadata", message("ModelMetadataRequest", **NOBODY), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("ModelMetadata", message("ModelMetadataRequest", **NO_VERSION), "NOT_FOUND", "VERSION_NOT_FOUND"),
    ("ModelConfig", message("ModelConfigRequest", **NOBODY), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("ModelConfig", message("ModelConfigRequest", **NO_VERSION), "NOT_FOUND", "VERSION_NOT_FOUND"),
    ("ModelStatistics", message("ModelStatisticsRequest", **NOBODY), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("ModelStatistics", message("ModelStatisticsRequest", version="1"), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("RepositoryIndex", message("RepositoryIndexRequest", repository_name="x"), "NOT_FOUND",
     "REPOSITORY_NOT_FOUND"),
    ("RepositoryModelLoad", load("nobody"), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("RepositoryModelLoad", load("../slim"), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("RepositoryModelLoad", load(""), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("RepositoryModelLoad", load("slim", repository_name="/etc"), "NOT_FOUND",
     "REPOSITORY_NOT_FOUND"),
    ("RepositoryModelLoad", load("slim", config="{}"), "INVALID_ARGUMENT",
     "INVALID_FIELD"),
    ("RepositoryModelLoad", load("slim", version="9"), "NOT_FOUND",
     "VERSION_NOT_FOUND"),
    ("RepositoryModelUnload", unload("nobody"), "NOT_FOUND",
     "MODEL_NOT_FOUND"),
    ("RepositoryModelUnload", unload("slim", version="9"), "NOT_FOUND",
     "VERSION_NOT_FOUND"),
    ("ModelInfer", request(model_name="../../etc/passwd"), "NOT_FOUND", "MODEL_NOT_FOUND"),
    ("ModelInfer", request(model_name="slim", model_version="9"), "NOT_FOUND", "VERSION_NOT_FOUND"),
    ("ModelInfer", request(None), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("ModelInfer", request(""), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("ModelInfer", request("word " * 5000), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("ModelInfer", request(stream=True), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("ModelInfer", request(parameters={"nonsense": 1}), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("ModelInfer", request(sampling_parameters={"max_tokens": -1}), "INVALID_ARGUMENT", "INVALID_FIELD"),
    ("ModelInfer", request(sampling_parameters={"temperature": float("nan")}), "INVALID_ARGUMENT",
     "INVALID_FIELD"),
    ("ModelInfer", request(sampling_parameters={"stop_token_ids": [10**6]}), "INVALID_ARGUMENT",
     "INVALID_FIELD"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "made", "code", "reason"), BAD)
def test_bad_requests_get_the_right_code_and_reason(
    calls: Any, name: str, made: Any, code: str, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(calls, name)(made, timeout=60)
    assert (caught.value.code().name, reason_of(caught.value)) == (code, reason)


@pytest.mark.parametrize("letter", ["m", "ü", "\U0001f600"])
def test_refusals_of_endless_names_still_fit_into_a_status(calls: Any, letter: str) -> None:
    name = letter * 100_000
    many = {f"{letter * 50}{number}": 1 for number in range(1000)}
    for made, code in (
        (request(model_name=name), "NOT_FOUND"),
        (request(model_version=name), "NOT_FOUND"),
        (request(**{name: "x"}), "INVALID_ARGUMENT"),
        (request(parameters={name: 1}), "INVALID_ARGUMENT"),
        (request(parameters=many), "INVALID_ARGUMENT"),
        (request(sampling_parameters=many), "INVALID_ARGUMENT"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            calls.ModelInfer(made, timeout=60)
        assert caught.value.code().name == code
        assert reason_of(caught.value)


def test_clients_that_hang_up_in_mid_stream_leave_nothing_behind(
    server: ServerProcess, client: Client, log: Path
) -> None:
    for number in range(30):
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            made = [request(id=str(n), stream=True, sampling_parameters=ENDLESS) for n in range(3)]
            responses = Calls(channel).ModelStreamInfer(iter(made), timeout=60)
            for _ in range(number):
                next(responses)
    assert eventually(lambda: idle(client))
    assert "bug" not in log.read_text()
    assert "never retrieved" not in log.read_text()


def test_bytes_that_are_no_message_are_refused(server: ServerProcess) -> None:
    for name in ("ModelInfer", "ModelReady", "RepositoryModelLoad"):
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{wire.SERVICE}/{name}")(b"\xff", timeout=60)
        assert (caught.value.code().name, reason_of(caught.value)) == (
            "INVALID_ARGUMENT",
            "MALFORMED_MESSAGE",
        )


@pytest.mark.parametrize("name", ["TraceSetting", "LogSettings", "SystemSharedMemoryStatus"])
def test_calls_there_are_not_are_unimplemented(calls: Any, name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(calls, name)(message(f"{name}Request"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(caught.value) == "METHOD_UNKNOWN"


def test_users_mistakes_are_no_errors_in_the_log(calls: Any, log: Path) -> None:
    for name, made, _, _ in BAD:
        with pytest.raises(grpc.RpcError):
            getattr(calls, name)(made, timeout=60)
    assert "Traceback" not in log.read_text()
    assert "bug" not in log.read_text()
