"""Options as fields of a protobuf message: a client sets them, a server reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.config.option import Declaration, declared, faults
from secateur.config.values import as_text, convert
from secateur.errors import BadInput

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message


def in_messages(declaration: Declaration) -> bool:
    """Whether clients of a server may give the option."""
    return bool(declaration.option.message_field)


def set_fields(message: Message, options: type, given: Mapping[str, Any]) -> None:
    """Set the fields of a message to what was given, by the names of the options that `options` declares.

    Raises:
        BadInput: a value that cannot be read.
    """
    for declaration in filter(in_messages, declared(options)):
        if declaration.name in given:
            holder, name = _holder(message, declaration)
            _set(holder, holder.DESCRIPTOR.fields_by_name[name], declaration, given[declaration.name])


def given_in(message: Message, options: type) -> dict[str, Any]:
    """What a message says, by the names of the options: text if it is not empty, numbers if they are set."""
    given: dict[str, Any] = {}
    for declaration in filter(in_messages, declared(options)):
        holder, name = _holder(message, declaration)
        field = holder.DESCRIPTOR.fields_by_name[name]
        value = getattr(holder, name)
        if field.is_repeated:
            value = list(value)
        if holder.HasField(name) if field.has_presence else value:
            given[declaration.name] = value
    return given


def faults_in(message: Message, options: type) -> Iterator[BadInput]:
    """What a message has that the options refuse, or refuse to clients of a server."""
    given = given_in(message, options)
    for declaration in filter(in_messages, declared(options)):
        if declaration.name in given:
            try:
                value = convert(declaration, given[declaration.name])
                yield from faults(_for_clients(declaration), value)
            except BadInput as error:
                yield error


def _for_clients(declaration: Declaration) -> Declaration:
    """The declaration with the range that clients of a server have."""
    about = declaration.option
    if about.message_max is None:
        return declaration
    return replace(declaration, option=replace(about, max_value=about.message_max))


def _holder(message: Message, declaration: Declaration) -> tuple[Message, str]:
    """The message that has the field of an option, and the field's name in it."""
    *outer, name = declaration.option.message_field.split(".")
    return reduce(getattr, outer, message), name


def field_of(options: type, name: str) -> str | None:
    """The field of the message that sets an option; None where there is none."""
    for declaration in declared(options):
        if declaration.name == name:
            return declaration.option.message_field or None
    return None


def _set(message: Message, field: FieldDescriptor, declaration: Declaration, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(convert(declaration, value))
    elif isinstance(value, int | float):
        try:
            setattr(message, field.name, value)
        except ValueError as error:
            raise BadInput(declaration.name, value, "is larger than a request can say") from error
    else:
        shown = as_text(declaration, convert(declaration, value))
        setattr(message, field.name, str(shown) if isinstance(shown, Path) else shown)
