"""What differs between a message and the options that clients set with it."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from secateur.config.option import Declaration, declared
from secateur.config.proto_fields import in_messages


def disagreements(descriptor: Descriptor, options: type) -> Iterator[str]:
    """What differs between a message and the options: fields that are missing, or of another type."""
    for declaration in filter(in_messages, declared(options)):
        name = declaration.option.message_field
        field = _field(descriptor, name)
        if field is None:
            yield f"{descriptor.name}.{name} is missing: the field of the option {declaration.name}"
        elif field.cpp_type not in _types(field, declaration):
            yield f"{descriptor.name}.{name} is of another type than the option {declaration.name}"


def _field(descriptor: Descriptor, path: str) -> FieldDescriptor | None:
    *outer, name = path.split(".")
    for part in outer:
        if part not in descriptor.fields_by_name:
            return None
        descriptor = descriptor.fields_by_name[part].message_type
    return descriptor.fields_by_name.get(name)


def _types(field: FieldDescriptor, declaration: Declaration) -> tuple[int, ...]:
    """The C++ types that hold an option: several in one field are text."""
    if declaration.many and not field.is_repeated:
        return (field.CPPTYPE_STRING,)
    if declaration.type is int:
        return (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    if declaration.type is float:
        return (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT)
    return (field.CPPTYPE_BOOL if declaration.type is bool else field.CPPTYPE_STRING,)
