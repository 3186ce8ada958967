"""What a ModelInferRequest asks for, once its tensors and parameters are read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.inference.sampling import SamplingSettings
from secateur.serve.protocols.open_inference.parameters import (
    READERS,
    read_bool,
    read_int,
    read_json,
    read_parameters,
    read_sampling,
)
from secateur.serve.protocols.open_inference.tensors import OUTPUTS, RETURN_PREFIX, read_inputs

PRIORITIES, DEFAULT_PRIORITY = 100, 50
"""As Triton counts: 1 goes first, 100 last; 0 = the default."""
BINARY_OUTPUT = "binary_data"
"""KServe's client says it of each output; over gRPC raw inputs get raw outputs anyway."""
NEED_LOGPROBS = ("logprobs", "cumulative_logprob")


@dataclass(frozen=True)
class InferRequest:
    """A text to be continued.

    Attributes:
        text: the prompt.
        stream: one answer per step instead of one for all.
        echo_prompt: begin the answer with the prompt.
        requested_outputs: names of the output tensors.
        sampling: how to continue.
        field_prefix: of the sampling parameters' names in the request, for complaints.
        priority: higher goes first where requests have to wait.
        timeout_seconds: how long it may take; None = unlimited.
        raw: the outputs go as raw bytes.
    """

    text: str
    stream: bool
    echo_prompt: bool
    requested_outputs: tuple[str, ...]
    sampling: SamplingSettings
    field_prefix: str
    priority: int
    timeout_seconds: float | None
    raw: bool


def read_infer_request(request: Any) -> InferRequest:
    """Read a ModelInferRequest.

    Raises:
        RpcError: INVALID_ARGUMENT naming every tensor or parameter at fault.
    """
    inputs = read_inputs(request)
    stream = bool(inputs.get("stream", False))
    exclude = bool(inputs.get("exclude_input_in_output", stream))
    if stream and not exclude:
        raise invalid_argument(
            FieldViolation("inputs[exclude_input_in_output]", "got false, must be true with stream")
        )
    parameters = read_parameters(request.parameters)
    own_parameters = {name: parameters.pop(name) for name in OWN_PARAMETERS if name in parameters}
    sampling, prefix = _read_sampling(inputs.get("sampling_parameters"), parameters)
    requested_outputs = _requested_outputs(request, inputs)
    if sampling.logprobs is None and any(name in NEED_LOGPROBS for name in requested_outputs):
        sampling = replace(sampling, logprobs=0)
    return InferRequest(
        text=str(inputs["text_input"]),
        stream=stream,
        echo_prompt=not exclude,
        requested_outputs=requested_outputs,
        sampling=sampling,
        field_prefix=prefix,
        **_read_own(own_parameters, bool(request.raw_input_contents)),
    )


def _read_sampling(text: Any, parameters: Mapping[str, Any]) -> tuple[SamplingSettings, str]:
    """Read the sampling parameters from the tensor of that name, or else from the request's parameters."""
    unknown = [name for name in parameters if name not in READERS]
    if unknown:
        known_parameters = ", ".join([*OWN_PARAMETERS, *READERS])
        raise invalid_argument(
            *(
                FieldViolation(f"parameters.{name}", f"unknown; known are {known_parameters}")
                for name in unknown
            )
        )
    if text is None:
        return read_sampling(parameters, "parameters."), "parameters."
    if parameters:
        complaint = "given although the tensor sampling_parameters is; use one of them"
        raise invalid_argument(*(FieldViolation(f"parameters.{name}", complaint) for name in parameters))
    return read_sampling(
        read_json("sampling_parameters", text), "sampling_parameters."
    ), "sampling_parameters."


def _requested_outputs(request: Any, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the outputs the request lists; if it lists none, the text and those with a ``return_`` input."""
    output_names = [output.name for output in request.outputs]
    violations = [
        FieldViolation(f"outputs[{name}]", f"unknown; known are {', '.join(OUTPUTS)}")
        for name in output_names
        if name not in OUTPUTS
    ]
    violations += [
        FieldViolation(f"outputs[{output.name}]", f"got parameter {name!r}; known is {BINARY_OUTPUT}")
        for output in request.outputs
        for name in sorted(output.parameters)
        if output.name in OUTPUTS and name != BINARY_OUTPUT
    ]
    if violations:
        raise invalid_argument(*violations)
    if output_names:
        return tuple(name for name in OUTPUTS if name in output_names)
    return tuple(
        name for name, output in OUTPUTS.items() if not output.optional or inputs.get(RETURN_PREFIX + name)
    )


def _read_own(parameters: Mapping[str, Any], raw: bool) -> dict[str, Any]:
    """Return priority, time limit and whether the outputs are raw."""
    values: dict[str, Any] = {"priority": 0, "timeout": 0, "binary_data_output": False}
    violations = []
    for name, value in parameters.items():
        try:
            values[name] = OWN_PARAMETERS[name](value)
        except (ValueError, OverflowError) as error:
            violations.append(FieldViolation(f"parameters.{name}", f"got {value!r}, {error}"))
    if violations:
        raise invalid_argument(*violations)
    return {
        "priority": DEFAULT_PRIORITY - (values["priority"] or DEFAULT_PRIORITY),
        "timeout_seconds": values["timeout"] / 1e6 or None,
        "raw": raw or values["binary_data_output"],
    }


def _priority(value: Any) -> int:
    number = read_int(value)
    if not 0 <= number <= PRIORITIES:
        raise ValueError(f"allowed is 0 to {PRIORITIES}")
    return number


def _microseconds(value: Any) -> int:
    number = read_int(value)
    if number < 0:
        raise ValueError("allowed is at least 0")
    return number


OWN_PARAMETERS = {
    "priority": _priority,
    "timeout": _microseconds,
    # Says that the client wants to know which answer is the last; it is told anyway.
    "triton_enable_empty_final_response": read_bool,
    # KServe's way of asking for raw bytes.
    "binary_data_output": read_bool,
}
