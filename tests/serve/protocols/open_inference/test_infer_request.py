"""What a request asks for: its tensors, parameters, and every way they can be wrong."""

from __future__ import annotations

from typing import Any

import pytest
from google.rpc import code_pb2

from secateur.serve.failures import RpcError
from secateur.serve.inference.sampling import SamplingSettings
from secateur.serve.protocols.open_inference.infer_request import read_infer_request
from secateur.serve.protocols.open_inference.tensors import INPUTS, OUTPUTS
from tests.serve.protocols.open_inference.calls import add_tensor, request


def refused_fields(made: Any) -> dict[str, str]:
    """Return field -> complaint of a request that must not be accepted."""
    with pytest.raises(RpcError) as caught:
        read_infer_request(made)
    assert caught.value.code == code_pb2.INVALID_ARGUMENT
    return {violation.field: violation.description for violation in caught.value.violations}


@pytest.mark.parametrize("raw", [False, True], ids=["contents", "raw"])
def test_all_tensors_are_read_from_contents_and_from_raw_bytes(raw: bool) -> None:
    flags = {name: True for name, tensor in INPUTS.items() if tensor.datatype == "BOOL"}
    question = read_infer_request(request("Grüße", raw=raw, sampling_parameters={"max_tokens": 3}, **flags))
    assert question.text == "Grüße"
    assert question.stream
    assert not question.echo_prompt
    assert question.requested_outputs == tuple(OUTPUTS)
    assert question.sampling == SamplingSettings(max_tokens=3, logprobs=0)
    assert question.raw is raw


def test_what_is_left_out_has_the_defaults_of_tritons_backend() -> None:
    question = read_infer_request(request())
    assert (question.stream, question.echo_prompt, question.requested_outputs) == (
        False,
        True,
        ("text_output",),
    )
    assert (question.priority, question.timeout_seconds, question.sampling) == (0, None, SamplingSettings())
    assert not read_infer_request(request(stream=True)).echo_prompt


def test_outputs_that_are_listed_need_no_return_input() -> None:
    made = request(outputs=["finish_reason", "text_output"], return_logprobs=True)
    assert read_infer_request(made).requested_outputs == ("text_output", "finish_reason")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_tokens": "16"}, SamplingSettings(max_tokens=16)),
        ({"max_tokens": 16.0, "temperature": "0"}, SamplingSettings(max_tokens=16, temperature=0.0)),
        ({"temperature": 1, "top_k": -1, "seed": None}, SamplingSettings()),
        ({"stop": "end", "ignore_eos": "True"}, SamplingSettings(stop=("end",), ignore_eos=True)),
        (
            {"stop": ["a", "b"], "stop_token_ids": [1, 2]},
            SamplingSettings(stop=("a", "b"), stop_token_ids=(1, 2)),
        ),
        ({"n": 2, "logprobs": 3, "stream_interval": 4}, SamplingSettings(n=2, logprobs=3, stream_interval=4)),
    ],
)
def test_sampling_parameters_come_as_numbers_or_texts(
    given: dict[str, Any], expected: SamplingSettings
) -> None:
    assert read_infer_request(request(sampling_parameters=given)).sampling == expected


def test_sampling_parameters_may_be_request_parameters() -> None:
    given = {"max_tokens": 4, "temperature": 0.5, "stop": "x", "stop_token_ids": "[7]", "ignore_eos": True}
    question = read_infer_request(request(parameters=given))
    expected = SamplingSettings(
        max_tokens=4, temperature=0.5, stop=("x",), stop_token_ids=(7,), ignore_eos=True
    )
    assert question.sampling == expected
    assert question.field_prefix == "parameters."


def test_priority_and_timeout_count_as_tritons_do() -> None:
    first = read_infer_request(request(parameters={"priority": 1, "timeout": 1_500_000}))
    assert (first.priority, first.timeout_seconds) == (49, 1.5)
    assert read_infer_request(request(parameters={"priority": 100})).priority == -50
    assert read_infer_request(request(parameters={"priority": 0, "timeout": 0})).timeout_seconds is None


@pytest.mark.parametrize(
    ("made", "field", "said"),
    [
        (request(None), "inputs[text_input]", "missing"),
        (request(image="x"), "inputs[image]", "unknown; known are text_input"),
        (request(stream=True, exclude_input_in_output=False), "inputs[exclude_input_in_output]", "must be"),
        (request(outputs=["text"]), "outputs[text]", "unknown; known are text_output"),
        (request(parameters={"lora": "x"}), "parameters.lora", "unknown; known are priority"),
        (request(parameters={"sequence_id": 1}), "parameters.sequence_id", "unknown"),
        (request(parameters={"priority": 101}), "parameters.priority", "got 101, allowed is 0 to 100"),
        (request(parameters={"timeout": -1}), "parameters.timeout", "at least 0"),
        (request(parameters={"triton_enable_empty_final_response": "x"}), "parameters.triton_enable_empty_"
         "final_response", "true or false"),
        (request(parameters={"top_p": 1.0}, sampling_parameters={}), "parameters.top_p", "use one of them"),
        (request(sampling_parameters="{"), "sampling_parameters", "not JSON"),
        (request(sampling_parameters="[" * 100_000), "sampling_parameters", "not JSON"),
        (request(sampling_parameters="[1]"), "sampling_parameters", "not a JSON object"),
        (request(sampling_parameters={"best_of": 2}), "sampling_parameters.best_of", "unknown; known are n"),
        (request(sampling_parameters={"max_tokens": "many"}), "sampling_parameters.max_tokens", 'got "many"'),
        (request(sampling_parameters={"max_tokens": True}), "sampling_parameters.max_tokens", "whole number"),
        (request(sampling_parameters={"max_tokens": 1.5}), "sampling_parameters.max_tokens", "whole number"),
        (request(sampling_parameters={"seed": 10**30}), "sampling_parameters.seed", "64 bits"),
        (request(sampling_parameters={"temperature": [1]}), "sampling_parameters.temperature", "a number"),
        (request(sampling_parameters={"ignore_eos": 1}), "sampling_parameters.ignore_eos", "true or false"),
        (request(sampling_parameters={"stop": [1]}), "sampling_parameters.stop", "list of texts"),
        (request(sampling_parameters={"stop_token_ids": 1}), "sampling_parameters.stop_token_ids", "a list"),
    ],
)  # fmt: skip
def test_refusal_names_the_field(made: Any, field: str, said: str) -> None:
    assert said in refused_fields(made)[field]


def test_all_fields_at_fault_are_named_at_once() -> None:
    given = {"max_tokens": "x", "temperature": "y"}
    assert set(refused_fields(request(sampling_parameters=given))) == {
        "sampling_parameters.max_tokens",
        "sampling_parameters.temperature",
    }
    assert set(refused_fields(request(None, image="x"))) == {"inputs[text_input]", "inputs[image]"}


def test_tensors_of_another_type_size_or_place_are_refused() -> None:
    made = request(stream=True)
    made.inputs[1].datatype = "INT32"
    assert "got datatype 'INT32', allowed is BOOL" in refused_fields(made)["inputs[stream]"]

    for shape in ([], [0], [2], [1, 3], [-1], [-1, -1]):
        made = request()
        made.inputs[0].shape[:] = shape
        assert f"got shape {shape}, allowed is [1]" in refused_fields(made)["inputs[text_input]"]
    made.inputs[0].shape[:] = [1, 1]
    assert read_infer_request(made).text == "Hello"

    made = request()
    add_tensor(made, "text_input", "again")
    assert refused_fields(made)["inputs[text_input]"] == "given twice"

    made = request()
    made.inputs[0].parameters["shared_memory_region"].string_param = "x"
    assert "shared memory is not supported" in refused_fields(made)["inputs[text_input]"]

    made = request(outputs=["text_output"])
    made.outputs[0].parameters["classification"].int64_param = 2
    assert "classification" in refused_fields(made)["outputs[text_output]"]

    made = request()
    made.inputs[0].ClearField("contents")
    assert "got 0 bytes_contents, needs 1" in refused_fields(made)["inputs[text_input]"]

    made = request()
    made.inputs[0].contents.bytes_contents[0] = b"\xff"
    assert "not UTF-8" in refused_fields(made)["inputs[text_input]"]


def test_raw_bytes_that_do_not_fit_are_refused() -> None:
    made = request(raw=True, stream=True)
    del made.raw_input_contents[1]
    assert "got 1 for 2 inputs" in refused_fields(made)["raw_input_contents"]

    made = request(raw=True)
    made.inputs[0].contents.bytes_contents.append(b"x")
    assert "has contents" in refused_fields(made)["inputs[text_input]"]

    for data in (b"", b"abc", b"\x09\0\0\0abc", b"\x01\0\0\0abc"):
        made = request(raw=True)
        made.raw_input_contents[0] = data
        assert "length in 4 bytes" in refused_fields(made)["inputs[text_input]"]

    for data in (b"", b"\x02", b"\1\1"):
        made = request(raw=True, stream=True)
        made.raw_input_contents[1] = data
        assert "one byte" in refused_fields(made)["inputs[stream]"]
