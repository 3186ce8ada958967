"""The tensors that go in and come out: names, types and shapes of Triton's vLLM backend."""

from __future__ import annotations

from typing import NamedTuple

BYTES, BOOL, FP32, UINT32 = "BYTES", "BOOL", "FP32", "UINT32"
RETURN_PREFIX = "return_"


class TensorSpec(NamedTuple):
    """What may, or must, be given or asked for; -1 in its shape is the number of completions."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (1,)
    optional: bool = True


OUTPUTS = {
    tensor.name: tensor
    for tensor in (
        TensorSpec("text_output", BYTES, (-1,), optional=False),
        TensorSpec("finish_reason", BYTES, (-1,)),
        TensorSpec("cumulative_logprob", FP32, (-1,)),
        TensorSpec("logprobs", BYTES, (-1,)),
        TensorSpec("num_input_tokens", UINT32),
        TensorSpec("num_output_tokens", UINT32, (-1,)),
    )
}
INPUTS = {
    tensor.name: tensor
    for tensor in (
        TensorSpec("text_input", BYTES, optional=False),
        TensorSpec("stream", BOOL),
        TensorSpec("sampling_parameters", BYTES),
        TensorSpec("exclude_input_in_output", BOOL),
        *(TensorSpec(RETURN_PREFIX + output.name, BOOL) for output in OUTPUTS.values() if output.optional),
    )
}
