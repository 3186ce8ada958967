"""Inputs that are nearly right: valid ones, damaged in a way that follows from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Mutate = Callable[[random.Random, Sequence[bytes]], bytes]

INTEGERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**60,
    2**63 - 1,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, 1e300, -1e300, float("nan"), float("inf"), 2**63, 10**400),
    *(
        "",
        " ",
        "a",
        "0",
        "null",
        "\ud800",
        "\x00",
        "a" * 300,
        "../..",
        "é\u202e",
        [],
        {},
        [[]],
        {"": {}},
        [0] * 50,
        ["x"],
    ),
)
TEXTS = (
    "",
    "a",
    "0",
    "../..",
    "\x00",
    "é" * 70,
    "a" * 5000,
    "{}",
    "nan",
    "1e999",
    "-1",
    "pydoc",
    "/etc/passwd",
    "a,b",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    2**31 - 1,
    -(2**31),
    2**63 - 1,
)


def damaged(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A valid input with a few of its bytes changed, cut out, repeated, or taken from another one."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 64, 1024))
        match chance.randrange(8):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                data[place : place + 1] = bytes(
                    [(data[place] ^ 1 << chance.randrange(8)) if place < len(data) else 0]
                )
            case 2:
                del data[place : place + length]
            case 3:
                del data[place:]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[place : place + length] = other[start : start + length]
            case 6:
                width = chance.choice((1, 2, 4, 8))
                data[place : place + width] = (chance.choice(INTEGERS) % 256**width).to_bytes(width, "little")
            case 7:
                data[place : place + 1] = chance.choice(
                    (b'"', b"{", b"[", b"]", b",", b"\n", b"\\", b"\xff", b"[" * 5000)
                )
    return bytes(data)


def damaged_json(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A valid JSON document, or one of several lines, with values swapped; half of the time bytes instead."""
    if chance.random() < 0.4:
        return damaged(chance, seeds)
    lines = chance.choice(seeds).split(b"\n")
    number = chance.randrange(len(lines))
    try:
        document = json.loads(lines[number])
    except ValueError:  # an empty line, or a document over several
        return damaged(chance, seeds)
    for _ in range(chance.choice((1, 1, 2, 3))):
        document = _changed(chance, document)
    lines[number] = json.dumps(document).encode()
    return b"\n".join(lines)


def _changed(chance: random.Random, node: Any) -> Any:
    if isinstance(node, dict) and node and chance.random() < 0.85:
        key = chance.choice(list(node))
        match chance.randrange(6):
            case 0:
                return {name: value for name, value in node.items() if name != key}
            case 1:
                return {
                    **node,
                    chance.choice(("x", "", key + "_", "text", "messages", "0")): chance.choice(VALUES),
                }
            case _:
                return {**node, key: _changed(chance, node[key])}
    if isinstance(node, list) and node and chance.random() < 0.85:
        index = chance.randrange(len(node))
        return [*node[:index], _changed(chance, node[index]), *node[index + 1 :]]
    return chance.choice(VALUES)


def damaged_message(kind: type[Message]) -> Mutate:
    """Valid messages with fields set to odd values; half of the time their bytes are damaged instead."""

    def mutate(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
        if chance.random() < 0.3:
            return damaged(chance, seeds)
        message = kind.FromString(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 4))):
            _set_odd(chance, message)
        return message.SerializeToString()

    return mutate


def _set_odd(chance: random.Random, message: Message) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    if chance.random() < 0.1 or (
        field.message_type is not None and field.message_type.GetOptions().map_entry
    ):
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = getattr(message, field.name)
        _set_odd(chance, inner.add() if field.is_repeated else inner)
    else:
        value = _odd_value(chance, field)
        try:
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        except (TypeError, ValueError):  # not of the field's type or range
            pass


def _odd_value(chance: random.Random, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.choice(TEXTS).encode()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    number = chance.choice(NUMBERS)
    is_float = field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
    return float(number) if is_float else int(number) if abs(number) < 2**70 else 0
