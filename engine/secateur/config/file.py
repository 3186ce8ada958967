"""Configuration files: every option of a command, spelled as on the command line without the dashes.

keep: [0.9, 0.8]
corpus: [calibration.txt]
max-shapes: 4

YAML, or TOML if the name ends so. Relative paths are relative to the file. What the command line says wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from secateur.config.option import Declaration, declared
from secateur.config.schema import first_error
from secateur.config.values import plain, words
from secateur.errors import BadInput

FIELD = "config"


def read_config(file: Path, options: type) -> dict[str, Any]:
    """The values that a file gives, by the names of their options.

    Args:
        options: the dataclass that declares them.

    Raises:
        BadInput: no such file, or the first key at fault, what it has and what it may have.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
        if content is not None and not isinstance(content, dict):
            raise BadInput(FIELD, file, "holds no options: one KEY: VALUE a line is needed")
        given = schema(options).model_validate(content or {}).model_dump(exclude_none=True)
    except ValidationError as error:
        raise BadInput(FIELD, file, first_error(error)) from error
    except OSError as error:
        raise BadInput(FIELD, file, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(FIELD, file, " ".join(str(error).split())) from error
    folder = file.absolute().parent
    by_name = {declaration.name: declaration for declaration in declared(options)}
    return {name: _located(by_name[name], value, folder) for name, value in given.items()}


def schema(options: type) -> type[BaseModel]:
    """What a file may hold. Ranges are checked where the options are, whoever gave them."""
    keys = {declaration.name: declaration.key for declaration in declared(options)}
    members: dict[str, Any] = {d.name: (_accepted(d) | None, None) for d in declared(options)}
    strict = ConfigDict(extra="forbid", strict=True, alias_generator=keys.__getitem__)
    model: type[BaseModel] = create_model("ConfigFile", __config__=strict, **members)
    return model


def _accepted(declaration: Declaration) -> Any:
    """The types that YAML and TOML may have for an option."""
    if declaration.option.in_file is not None:
        return declaration.option.in_file
    one: Any = str if declaration.type is Path else declaration.type
    if declaration.option.parse is not None:
        return str | int | float | dict[str, Any] | list[Any]
    if one is str and declaration.many:
        one = str | int
    return one | list[one] | str if declaration.many else one


def _located(declaration: Declaration, value: Any, folder: Path) -> Any:
    """A value with its relative paths made absolute."""
    is_path = declaration.option.is_path
    if not is_path:
        return value
    applies: Callable[[str], bool] = is_path if callable(is_path) else lambda _: True

    def locate(path: str) -> str:
        return str(folder / Path(path).expanduser()) if path and applies(path) else path

    if declaration.many and isinstance(value, str):
        value = words(value)
    if isinstance(value, list):
        return [locate(path) for path in value]
    if isinstance(value, Mapping):
        return {name: locate(path) for name, path in value.items()}
    return locate(value)


def document(options: Any) -> dict[str, Any]:
    """Every option that holds, as a file would give it; secrets are left out."""
    return {
        declaration.key: plain(_shown(declaration, declaration.value_in(options)))
        for declaration in declared(type(options))
    }


def _shown(declaration: Declaration, value: Any) -> Any:
    redact, show = declaration.option.redact, declaration.option.show
    if show is not None and isinstance(value, int):
        return show(value)
    return redact(value) if redact is not None and value is not None else value
