"""Tensors on the wire, in both ways the protocol has: typed contents, and raw bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from secateur.serve.failures import FieldViolation, invalid_argument

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


CONTENTS = {
    BYTES: "bytes_contents",
    BOOL: "bool_contents",
    FP32: "fp32_contents",
    UINT32: "uint_contents",
}
"""Datatype -> field of InferTensorContents."""
BINARY_SIZE = "binary_data_size"
"""KServe's client says it of raw tensors over gRPC too, where it says nothing new."""
LENGTH = struct.Struct("<I")
"""Raw BYTES elements have their length in front."""


def read_inputs(request: Any) -> dict[str, str | bool]:
    """Return the value of every input tensor, by name; each has one element.

    Raises:
        RpcError: INVALID_ARGUMENT naming each tensor that is unknown, missing, given twice, of another type
            or size than it should have, or not UTF-8.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        description = f"got {len(raw)} for {len(request.inputs)} inputs, give one for each or none"
        raise invalid_argument(FieldViolation("raw_input_contents", description))
    values: dict[str, str | bool] = {}
    violations = []
    for position, tensor in enumerate(request.inputs):
        field = f"inputs[{tensor.name}]"
        error_text = _describe_error(tensor, bool(raw)) or ("given twice" if tensor.name in values else None)
        if error_text is None:
            try:
                element = _from_raw(tensor.datatype, raw[position]) if raw else _from_contents(tensor)
                values[tensor.name] = element.decode() if isinstance(element, bytes) else element
                continue
            except ValueError as error:
                error_text = f"not UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else str(error)
        violations.append(FieldViolation(field, error_text))
    violations += [
        FieldViolation(f"inputs[{name}]", "missing")
        for name, tensor in INPUTS.items()
        if not tensor.optional and all(given.name != name for given in request.inputs)
    ]
    if violations:
        raise invalid_argument(*violations)
    return values


def _describe_error(tensor: Any, raw: bool) -> str | None:
    """Return what is wrong with a tensor's description, if anything is."""
    expected = INPUTS.get(tensor.name)
    if expected is None:
        return f"unknown; known are {', '.join(INPUTS)}"
    foreign = sorted(set(tensor.parameters) - {BINARY_SIZE})
    if foreign:
        return f"got parameter {foreign[0]!r}; tensors take none, shared memory is not supported"
    if tensor.datatype != expected.datatype:
        return f"got datatype {tensor.datatype!r}, allowed is {expected.datatype}"
    # A product of negative sizes could look right.
    if min(tensor.shape, default=0) < 1 or math.prod(tensor.shape) != 1:
        return f"got shape {list(tensor.shape)}, allowed is [1]"
    if raw and tensor.HasField("contents"):
        return "has contents, although raw_input_contents are given"
    return None


def _from_contents(tensor: Any) -> Any:
    elements = getattr(tensor.contents, CONTENTS[tensor.datatype])
    if len(elements) != 1:
        raise ValueError(f"got {len(elements)} {CONTENTS[tensor.datatype]}, needs 1")
    return elements[0]


def _from_raw(datatype: str, data: bytes) -> Any:
    if datatype == BOOL:
        if data not in (b"\0", b"\1"):
            raise ValueError(f"got {len(data)} raw bytes, needs one byte that is 0 or 1")
        return data == b"\1"
    if len(data) < LENGTH.size or LENGTH.unpack_from(data)[0] != len(data) - LENGTH.size:
        raise ValueError("raw contents must be the length in 4 bytes, little-endian, and that many bytes")
    return data[LENGTH.size :]


def write_outputs(response: Any, values: Mapping[str, Sequence[Any]], raw: bool) -> None:
    """Add output tensors to a response; ``raw``: as raw bytes, as the inputs came."""
    for name, elements in values.items():
        datatype = OUTPUTS[name].datatype
        tensor = response.outputs.add(name=name, datatype=datatype, shape=[len(elements)])
        if raw:
            response.raw_output_contents.append(b"".join(_to_raw(datatype, elements)))
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(elements)


def _to_raw(datatype: str, elements: Sequence[Any]) -> Iterator[bytes]:
    for element in elements:
        if datatype == BYTES:
            yield LENGTH.pack(len(element)) + element
        else:
            yield struct.pack("<f" if datatype == FP32 else "<I", element)
