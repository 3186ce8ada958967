"""The tensors that go in and come out: names, types and shapes of Triton's vLLM backend."""

from __future__ import annotations

from typing import NamedTuple

BYTES, BOOL, FP32, UINT32 = "BYTES", "BOOL", "FP32", "UINT32"
RETURN = "return_"


class Tensor(NamedTuple):
    """What may, or must, be given or asked for; -1 in its shape is the number of completions."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (1,)
    optional: bool = True


OUTPUTS = {
    tensor.name: tensor
    for tensor in (
        Tensor("text_output", BYTES, (-1,), optional=False),
        Tensor("finish_reason", BYTES, (-1,)),
        Tensor("cumulative_logprob", FP32, (-1,)),
        Tensor("logprobs", BYTES, (-1,)),
        Tensor("num_input_tokens", UINT32),
        Tensor("num_output_tokens", UINT32, (-1,)),
    )
}
INPUTS = {
    tensor.name: tensor
    for tensor in (
        Tensor("text_input", BYTES, optional=False),
        Tensor("stream", BOOL),
        Tensor("sampling_parameters", BYTES),
        Tensor("exclude_input_in_output", BOOL),
        *(Tensor(RETURN + output.name, BOOL) for output in OUTPUTS.values() if output.optional),
    )
}
