"""Requests that nobody sane sends, for any method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.longrunning import operations_pb2  # noqa: F401  registers its service
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from secateur.serve.protocols.open_inference import wire
from secateur.v1 import benchmarks_pb2, inference_pb2, models_pb2, prune_pb2  # noqa: F401  the same

GARBAGE = b"\x0a\xff\xff\xff\x7f\x00"
TEXT = "../../etc/passwd"
DEPTH = 4
VALUES: dict[int, Any] = {
    FieldDescriptor.CPPTYPE_STRING: TEXT,
    FieldDescriptor.CPPTYPE_INT32: -(2**31),
    FieldDescriptor.CPPTYPE_INT64: -(2**63),
    FieldDescriptor.CPPTYPE_UINT32: 2**32 - 1,
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
    FieldDescriptor.CPPTYPE_DOUBLE: float("nan"),
    FieldDescriptor.CPPTYPE_FLOAT: float("-inf"),
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_ENUM: 999,
}


def methods(services: tuple[str, ...]) -> Iterator[MethodDescriptor]:
    """Yield all methods of services, by their full names."""
    for name in services:
        pool = wire.POOL if name == wire.SERVICE else descriptor_pool.Default()
        yield from pool.FindServiceByName(name).methods


def requests(method: MethodDescriptor) -> Iterator[bytes]:
    """Yield what is no message, and messages with every field wrong; of a oneof each choice once."""
    yield GARBAGE
    kind = message_factory.GetMessageClass(method.input_type)
    choices = [field.name for oneof in method.input_type.oneofs for field in oneof.fields] or [""]
    for chosen in choices:
        yield _wrong(kind(), chosen).SerializeToString()


def _wrong(message: Any, chosen: str = "", depth: int = 0) -> Any:
    for field in message.DESCRIPTOR.fields:
        if chosen and field.containing_oneof and field.name != chosen:
            continue
        if field.message_type is None:
            value = _value(field)
            if field.is_repeated:
                getattr(message, field.name).extend([value, value])
            else:
                setattr(message, field.name, value)
        elif field.message_type.GetOptions().map_entry:
            _wrong_entry(getattr(message, field.name), field.message_type, depth)
        elif depth < DEPTH:
            inner = getattr(message, field.name)
            _wrong(inner.add() if field.is_repeated else inner, "", depth + 1)
    return message


def _value(field: FieldDescriptor) -> Any:
    return b"\xff" if field.type == field.TYPE_BYTES else VALUES[field.cpp_type]


def _wrong_entry(entries: Any, entry: Any, depth: int) -> None:
    key, value = _value(entry.fields_by_name["key"]), entry.fields_by_name["value"]
    if value.message_type is not None:
        _wrong(entries[key], "", depth + 1)
    else:
        entries[key] = _value(value)
