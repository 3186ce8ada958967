"""A client of inference.GRPCInferenceService for tests: its calls by name, requests in short form."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import message_factory
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.open_inference.tensors import INPUTS


class Calls:
    """``calls.ModelInfer(request)`` and so on."""

    def __init__(self, channel: grpc.Channel) -> None:
        for method in wire.POOL.FindServiceByName(wire.SERVICE).methods:
            make = channel.stream_stream if method.server_streaming else channel.unary_unary
            request, response = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
            path = f"/{wire.SERVICE}/{method.name}"
            call = make(path, request.SerializeToString, response.FromString)
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def request(text: str | None = "Hello", *, raw: bool = False, **fields: Any) -> Any:
    """Make a ModelInferRequest.

    Args:
        text: the text_input; None = none.
        raw: send the tensors as raw bytes.
        fields: ``id``, ``model_name``, ``model_version``; ``outputs`` and ``parameters``; all others are
            input tensors, ``sampling_parameters`` as a dictionary.
    """
    made = wire.ModelInferRequest(
        **{name: fields.pop(name) for name in ("id", "model_name", "model_version") if name in fields}
    )
    for name in fields.pop("outputs", ()):
        made.outputs.add(name=name)
    for name, value in fields.pop("parameters", {}).items():
        choice = {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]
        setattr(made.parameters[name], f"{choice}_param", value)
    tensors = ({} if text is None else {"text_input": text}) | fields
    for name, value in tensors.items():
        add_tensor(made, name, json.dumps(value) if isinstance(value, dict) else value, raw)
    return made


def add_tensor(made: Any, name: str, value: str | bool, raw: bool = False) -> None:
    datatype = INPUTS[name].datatype if name in INPUTS else "BYTES"
    tensor = made.inputs.add(name=name, datatype=datatype, shape=[1])
    element = value.encode() if isinstance(value, str) else value
    if raw and isinstance(element, bytes):
        made.raw_input_contents.append(struct.pack("<I", len(element)) + element)
    elif raw:
        made.raw_input_contents.append(bytes([element]))
    elif isinstance(element, bytes):
        tensor.contents.bytes_contents.append(element)
    else:
        tensor.contents.bool_contents.append(element)


def outputs(response: Any) -> dict[str, list[Any]]:
    """Return the output tensors by name, whichever way they were sent."""
    values: dict[str, list[Any]] = {}
    for position, tensor in enumerate(response.outputs):
        if response.raw_output_contents:
            elements = list(_unpacked(tensor.datatype, response.raw_output_contents[position]))
        else:
            (field,) = (elements for _, elements in tensor.contents.ListFields())
            elements = list(field)
        assert [len(elements)] == list(tensor.shape)
        values[tensor.name] = [one.decode() if isinstance(one, bytes) else one for one in elements]
    return values


def _unpacked(datatype: str, data: bytes) -> Iterator[Any]:
    if datatype != "BYTES":
        yield from (value for (value,) in struct.iter_unpack("<f" if datatype == "FP32" else "<I", data))
        return
    while data:
        length = struct.unpack_from("<I", data)[0]
        yield data[4 : 4 + length]
        data = data[4 + length :]


def text_of(response: Any) -> str:
    return str(outputs(response)["text_output"][0])


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason in the ErrorInfo that every error must carry."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return str(info.reason)
