"""Values of options from text, configuration files and JSON, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from secateur.config.option import KEY, Declaration, declared, nested_options, type_hints
from secateur.errors import BadInput

T = TypeVar("T")

# Words that several options take.
AUTO = "auto"
DTYPES = ("bfloat16", "float16", "float32")


def from_given(options: type[T], given: Mapping[str, Any]) -> T:
    """Options from what a user gave, by name; what is absent or None has its default.

    Args:
        given: text, numbers, paths or lists of them, as command lines and configuration files have them.

    Raises:
        BadInput: a value that cannot be read, or that the options refuse.
    """
    present = {name: value for name, value in given.items() if value is not None}
    by_name = {declaration.name: declaration for declaration in declared(options)}
    return _build(options, {name: convert(by_name[name], value) for name, value in present.items()})


def from_json(options: type[T], document: Mapping[str, Any]) -> T:
    """Options that `to_json` wrote, also a version of it that had fewer or more of them; null is None."""
    values = {
        declaration.name: convert(declaration, document[declaration.name])
        for declaration in declared(options)
        if declaration.name in document and (document[declaration.name] is not None or declaration.optional)
    }
    return _build(options, values)


def to_json(options: Any) -> dict[str, Any]:
    """Every option by its name, as plain values."""
    return {declaration.name: plain(declaration.value_in(options)) for declaration in declared(type(options))}


def convert(declaration: Declaration, value: Any) -> Any:
    """One value of an option from what a person or a file says.

    Raises:
        BadInput: text that is no such value.
    """
    if value is None:
        return None
    if declaration.option.parse is not None:
        return declaration.option.parse(value)
    if not declaration.many:
        return _convert_one(declaration, value, value)
    if isinstance(value, str):
        # An empty part of a list of numbers is a mistake; of words, nothing.
        parts: Any = words(value) if declaration.type is str else value.split(",")
        if declaration.option.is_path:
            parts = paths(value)
    else:
        parts = value if isinstance(value, list | tuple) else [value]
    return tuple(_convert_one(declaration, part, value) for part in parts)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return str(value) if isinstance(value, Path) else value


def as_text(declaration: Declaration, value: Any) -> Any:
    """A value as the command line takes it: several with commas between them."""
    if value is not None and declaration.option.show is not None:
        return declaration.option.show(value)
    if isinstance(value, tuple | list):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return value


def show_numbers(numbers: Iterable[float]) -> str:
    """Numbers as they are typed: with commas between them."""
    return ",".join(f"{number:g}" for number in numbers)


def words(text: str) -> list[str]:
    """The words of a text with commas between them."""
    return [word for word in (part.strip() for part in text.split(",")) if word]


def paths(text: str) -> list[str]:
    """The paths and names of a text with commas between them; a path that exists keeps the commas in it."""
    parts: list[str] = text.split(",")
    found: list[str] = []
    while parts:
        lengths = (count for count in range(len(parts), 1, -1) if _exists(",".join(parts[:count]).strip()))
        count = next(lengths, 1)
        found.append(",".join(parts[:count]).strip())
        parts = parts[count:]
    return [name for name in found if name]


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # longer than any name, a NUL, a user that is not there
        return False


def _convert_one(declaration: Declaration, value: Any, given: Any) -> Any:
    if declaration.type is Path:
        if str(value) in ("", "."):
            raise BadInput(declaration.name, "nothing", "a path")
        return Path(value)
    if declaration.type is str:
        return str(value)
    if declaration.type not in (int, float) or not isinstance(value, str):
        return value
    try:
        return declaration.type(value)
    except ValueError as error:
        what = "whole numbers, such as 8" if declaration.type is int else "numbers, such as 0.8"
        commas = ", with commas between them" if declaration.many else ""
        raise BadInput(declaration.name, given, f"allowed are {what}{commas}") from error


def _build(options: type[T], values: Mapping[str, Any]) -> T:
    """An instance from values by name, nested dataclasses built from theirs."""
    names = {declaration.path: declaration.name for declaration in declared(options)}
    return _nested(options, (), names, values)


def _nested(
    options: type[T], path: tuple[str, ...], names: Mapping[tuple[str, ...], str], values: Mapping[str, Any]
) -> T:
    hints = type_hints(options)  # type: ignore[arg-type]  # mypy: type[T] is no Hashable
    arguments: dict[str, Any] = {}
    for member in fields(options):  # type: ignore[arg-type]
        here = (*path, member.name)
        if KEY in member.metadata:
            if names[here] in values:
                arguments[member.name] = values[names[here]]
            elif member.default is MISSING and member.default_factory is MISSING:
                raise BadInput(names[here], "nothing", member.metadata[KEY].allowed or "is needed")
            continue
        nested = nested_options(hints[member.name])
        inner = [name for member_path, name in names.items() if member_path[: len(here)] == here]
        given = any(values.get(name) is not None for name in inner)
        if nested is not None and (given or nested is hints[member.name]):
            arguments[member.name] = _nested(nested, here, names, values)
    return options(**arguments)
