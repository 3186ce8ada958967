"""The declaration of an option, beside the field of a dataclass that holds its value.

    @dataclass(frozen=True)
    class Options:
        keep: tuple[float, ...] = option((), help="Fraction to keep.", group=BUDGET, above=0, max_value=1)

`declared(Options)` lists the declarations, those of nested ones among them; `check(options)` raises on the
first value out of range. See `values` for conversions and `file` for configuration files.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from secateur.errors import BadInput

KEY = "option"  # in the metadata of a field


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name, type and default.

    Attributes:
        help: one line; what an option does, then what happens where it is not given.
        group: the heading in ``help`` that it stands under.
        name: its name towards the user; empty is that of the field.
        flag: spelling on the command line, without dashes, where it does not follow from the name.
        short: a one-letter flag.
        metavar: what the value is called in ``help``.
        positional: an argument without a flag.
        repeatable: may be given several times on the command line.
        envvar: variable that gives it where the command line does not.
        min_value, above, max_value: range of a number, or of each of several; `above` is exclusive.
        choices: the words that are allowed.
        allowed: what an error says is allowed; follows from range or choices where empty.
        default_help: what ``help`` shows as the default where the declared one says nothing to a person.
        parse: reads the value from text, or from a number of a configuration file.
        show: the text that `parse` reads, of a value.
        in_file: type in a configuration file, where it does not follow from the option's own.
        is_path: whether values are paths, relative to a configuration file that names them; or which are.
        message_field: field of a request that sets it, such as ``open.rates``; empty where clients may not.
        message_max: the most that clients of a server may give, where that is less than `max_value`.
        redact: of a value with a secret in it, what may be printed.
    """

    help: str
    group: str = ""
    name: str = ""
    flag: str = ""
    short: str = ""
    metavar: str = ""
    positional: bool = False
    repeatable: bool = False
    envvar: str = ""
    min_value: float | None = None
    above: float | None = None
    max_value: float | None = None
    choices: tuple[str, ...] = ()
    allowed: str = ""
    default_help: str = ""
    parse: Callable[[Any], Any] | None = None
    show: Callable[[Any], Any] | None = None
    in_file: Any = None
    is_path: bool | Callable[[str], bool] = False
    message_field: str = ""
    message_max: float | None = None
    redact: Callable[[Any], Any] | None = None

    def admits(self, number: float) -> bool:
        """Whether a number is in the range; infinity and what is not a number are not."""
        return (
            math.isfinite(number)
            and (self.min_value is None or number >= self.min_value)
            and (self.above is None or number > self.above)
            and (self.max_value is None or number <= self.max_value)
        )

    @property
    def range(self) -> str:
        """The range in words."""
        lower = f"at least {self.min_value:.15g}" if self.min_value is not None else ""
        lower = f"above {self.above:.15g}" if self.above is not None else lower
        upper = f"at most {self.max_value:.15g}" if self.max_value is not None else ""
        return ", ".join(filter(None, (lower, upper)))


@dataclass(frozen=True)
class Declaration:
    """An option of a dataclass of options.

    Attributes:
        name: towards the user; unique in its dataclass and what it nests.
        path: of fields, from the dataclass to the value.
        type: of one value: ``int`` for an ``int | None``, ``float`` for a ``tuple[float, ...]``.
        optional: None is a value.
        many: the value is a tuple.
        default: a value, or `MISSING` where it must be given.
    """

    name: str
    path: tuple[str, ...]
    type: type
    optional: bool
    many: bool
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """On the command line: the key with its dashes; of an argument, its name there."""
        if self.option.positional:
            return self.option.metavar.rstrip(".") or self.name.upper()
        return f"--{self.key}"

    @property
    def key(self) -> str:
        """In a configuration file: the flag without its dashes."""
        return self.option.flag or self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    def value_in(self, options: Any) -> Any:
        """The value that `options` have; None in a part of them that is None."""
        for part in self.path:
            options = None if options is None else getattr(options, part)
        return options


def option(
    default: Any = MISSING, *, default_factory: Any = MISSING, secret: bool = False, **particulars: Any
) -> Any:
    """A dataclass field with its declaration; the arguments are `Option`'s.

    Args:
        secret: whether the value is left out of the dataclass's ``repr``.
    """
    metadata = {KEY: Option(**particulars)}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


def declared(options: type) -> tuple[Declaration, ...]:
    """The declarations of a dataclass, in their order, those of nested dataclasses among them."""
    return tuple(_declared(options, ()))


def declaration(options: type, name: str) -> Declaration:
    """The declaration of that name.

    Raises:
        KeyError: there is none.
    """
    for declared_option in declared(options):
        if declared_option.name == name:
            return declared_option
    raise KeyError(name)


def _declared(options: type, path: tuple[str, ...]) -> Sequence[Declaration]:
    hints = type_hints(options)
    declarations: list[Declaration] = []
    for member in dataclasses.fields(options):
        here = (*path, member.name)
        hint = hints[member.name]
        if KEY not in member.metadata:
            nested = nested_options(hint)
            if nested is not None:
                inner = _declared(nested, here)
                declarations += inner if nested is hint else [replace(one, default=None) for one in inner]
            continue
        about: Option = member.metadata[KEY]
        default = member.default_factory() if member.default_factory is not MISSING else member.default
        declarations.append(Declaration(about.name or member.name, here, *_type_of(hint), default, about))
    return declarations


@cache
def type_hints(options: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields, resolved once: Python compiles every annotation anew."""
    return typing.get_type_hints(options)


def nested_options(hint: Any) -> type | None:
    """The dataclass that a field nests, which may be None where the annotation says so."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _type_of(hint: Any) -> tuple[type, bool, bool]:
    """The type of one value, whether None is a value, and whether there are several."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        optional, hint = len(parts) < len(typing.get_args(hint)), parts[0]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], optional, True
    return typing.get_origin(hint) or hint, optional, False


def check(options: Any) -> None:
    """Check every value of a dataclass against its declaration; those of nested ones check themselves.

    Raises:
        BadInput: naming the first option out of its range or not among its choices.
    """
    for declared_option in declared(type(options)):
        if len(declared_option.path) == 1:
            for fault in faults(declared_option, declared_option.value_in(options)):
                raise fault


def faults(declared_option: Declaration, value: Any) -> Iterator[BadInput]:
    """What is out of range, or not among the choices, in a value of an option."""
    about = declared_option.option
    for one in value if declared_option.many else (value,):
        if one is None or isinstance(one, Path | Mapping):
            continue
        if about.choices and one not in about.choices:
            allowed = about.allowed or f"allowed are {', '.join(about.choices)}"
            yield BadInput(declared_option.name, one, allowed)
        elif isinstance(one, int | float) and not isinstance(one, bool) and not about.admits(one):
            rounded = f"{one:g}"
            shown = rounded if isinstance(one, float) and float(rounded) == one else one
            yield BadInput(declared_option.name, shown, about.allowed or about.range)
