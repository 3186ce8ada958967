"""Commands made from declarations: signatures, configuration files, errors that name flags."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.config.option import Declaration, declared
from secateur.config.values import as_text, convert
from secateur.errors import BadInput, Naming, SecateurError, with_field_names

T = TypeVar("T")

Given = Mapping[str, Any]
"""What the command line or a configuration file says, by the names of options; nothing else."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


FROM_FILE = "secateur.config"  # key of what a configuration file gives, in the context of a command


_naming: ContextVar[Naming] = ContextVar("naming", default=lambda field: None)


def in_flags(text: str) -> str:
    """A text with the fields in backquotes as the flags of the command that runs."""
    return with_field_names(text, _naming.get())


class OptionCommand(TyperCommand):
    """A command whose errors name its flags."""

    def invoke(self, ctx: Any) -> Any:
        """Run it; an error about a field is raised again in the words of the command line.

        Raises:
            SecateurError: as the command.
        """
        in_file = ctx.meta.get(FROM_FILE, {})
        ctx.params |= {name: value for name, value in in_file.items() if self._is_from_file(ctx, name)}
        naming = _naming.set(self._flag)
        try:
            return super().invoke(ctx)
        except SecateurError as error:
            in_words = error.with_names(self._flag)
            if isinstance(error, BadInput) and isinstance(in_words, BadInput):
                in_words = self._from_file(ctx, error.field, in_words)
            raise in_words from error
        finally:
            _naming.reset(naming)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line, and the configuration file that it names.

        Raises:
            BadInput: what the file says cannot be read.
        """
        try:
            return super().make_context(*args, **kwargs)
        except BadInput as error:
            raise error.with_names(self._flag) from error

    def _flag(self, field: str) -> str | None:
        parameter = self._parameter(field)
        if parameter is None:
            return None
        if parameter.param_type_name == "argument":
            return str(parameter.metavar or parameter.name.upper()).rstrip(".")
        return str(max(parameter.opts, key=len))

    def _parameter(self, field: str) -> Any:
        return next((one for one in self.params if one.name == field.partition(".")[0]), None)

    @staticmethod
    def _is_from_file(ctx: Any, field: str) -> bool:
        source = ctx.get_parameter_source(field)
        return source is not None and source.name == "DEFAULT_MAP"

    def _from_file(self, ctx: Any, field: str, error: BadInput) -> BadInput:
        """The error as one of the configuration file, if the value came from there.

        A model or study that is no parameter of the command is in capitals, as the arguments are.
        """
        parameter = self._parameter(field)
        if parameter is None:
            return error.with_names(
                lambda name: name.upper() if name == field in ("model", "study") else None
            )
        if not self._is_from_file(ctx, field):
            return error
        key = parameter.name if parameter.param_type_name == "argument" else error.field.lstrip("-")
        return BadInput("--config", ctx.params["config"], f"{key}: got {error.given}: {error.allowed}")


def takes_options(
    options: type,
    *,
    only: Callable[[Declaration], bool] = lambda _: True,
    config: bool = False,
    argument: str = "given",
    helps: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command the options that a dataclass declares; one of its arguments gets what was given of them.

    Args:
        only: which of them.
        config: whether `--config FILE` may give them.
        argument: the command's argument in whose place they stand.
        helps: what `help` says of an option here, where that differs, by its name.
    """
    chosen = [
        replace(
            declaration, option=replace(declaration.option, help=helps[declaration.name], default_help="")
        )
        if helps and declaration.name in helps
        else declaration
        for declaration in declared(options)
        if only(declaration)
    ]

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(command)
        def run(**values: Any) -> T:
            values.pop("config", None)
            given = {d.name: values.pop(d.name) for d in chosen}
            values[argument] = {name: value for name, value in given.items() if value is not None}
            return command(**values)

        added = [_parameter(declaration, options) for declaration in chosen]
        if config:
            added.append(_config_parameter(options))
        _sign(run, command, argument, added)
        return run

    return decorate


def _sign(run: Any, command: Callable[..., Any], replaced: str, added: Iterable[inspect.Parameter]) -> None:
    """Give `run` the signature of `command`, with parameters added where the one that is replaced stands."""
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == replaced:
            parameters += added
        else:
            annotation = _annotation(command, parameter)
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # typer would look through to the command's own signature


def _annotation(command: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type that an annotation names; those imported for type checkers alone stay text."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        return eval(parameter.annotation, inspect.unwrap(command).__globals__)
    except NameError:
        return parameter.annotation


def _parameter(declaration: Declaration, options: type) -> inspect.Parameter:
    """The parameter of a command; None where it is not given, so that only what is given is known."""
    about = declaration.option
    hint: Any = declaration.type if declaration.type in (int, float, bool, Path) else str
    hint = str if about.parse is not None or declaration.many else hint
    shared: dict[str, Any] = {
        "help": _help(declaration, options),
        "metavar": about.metavar or None,
        "envvar": about.envvar or None,
        "show_default": False,
    }
    if about.positional:
        made = typer.Argument(**shared)
    else:
        names = [_switch(declaration), *([about.short] if about.short else [])]
        made = typer.Option(*names, rich_help_panel=about.group or None, **shared)
    required = declaration.is_required
    one: Any = types.GenericAlias(list, (hint,)) if about.repeatable else hint
    annotation: Any = Annotated[one if required else one | None, made]
    default = inspect.Parameter.empty if required else None
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(declaration.name, keyword, default=default, annotation=annotation)


def _switch(declaration: Declaration) -> str:
    """The flag; of one that is on, or neither, by default with its opposite."""
    flag = declaration.flag
    if declaration.type is bool and declaration.default is not False:
        return f"{flag}/--no-{flag.removeprefix('--')}"
    return flag


def _help(declaration: Declaration, options: type) -> str:
    flags = {other.name: other.flag for other in declared(options)}
    about = declaration.option
    default = about.default_help
    if not default and not declaration.is_required and declaration.type is not bool:
        shown = as_text(declaration, declaration.default)
        default = str(shown) if shown not in (None, "", []) else ""
    if declaration.default is True:
        default = "on"
    elif isinstance(declaration.default, float):
        default = f"{declaration.default:g}"
    return with_field_names(f"{about.help} Default: {default}." if default else about.help, flags.get)


def _config_parameter(options: type) -> inspect.Parameter:
    def take_over(context: typer.Context, file: Path | None) -> Path | None:
        """Make what the file says the defaults of all other options."""
        if file is not None and not context.resilient_parsing:
            with exit_on_interrupt_during_import():
                from secateur.config.file import read_config
            values = read_config(file, options)
            # As text they are read like defaults of the command line; the values themselves take their place.
            by_name = {declaration.name: declaration for declaration in declared(options)}
            try:
                values = {name: _as_given(by_name[name], value) for name, value in values.items()}
            except BadInput as error:
                raise BadInput(
                    "config", file, f"{error.field}: got {error.given}: {error.allowed}"
                ) from error
            context.default_map = {name: _as_default(value) for name, value in values.items()}
            context.meta[FROM_FILE] = values
        return file

    made = typer.Option(
        metavar="FILE",
        help="YAML or TOML file of options, spelled as here without the dashes; the command line wins.",
        callback=take_over,
        is_eager=True,
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter("config", keyword, default=None, annotation=Annotated[Path | None, made])


def _as_given(declaration: Declaration, value: Any) -> Any:
    """A value of a file; of what may be given several times, the arguments that say the same."""
    return as_text(declaration, convert(declaration, value)) if declaration.option.repeatable else value


def _as_default(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | list) else str(value)
