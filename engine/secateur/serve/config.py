"""The file of `secateur serve --config`: every option of the command, spelled as there without the dashes.

models:
  slim: out/slim
listen: 0.0.0.0:50051
tls-cert: /etc/secateur/cert.pem
tls-key: /etc/secateur/key.pem
max-sequences: 32

YAML, or TOML if its name ends so. Relative paths are relative to the file. What the command line says wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from secateur.config.schema import first_error
from secateur.errors import BadInput

# Parameters of the command whose option has another name.
RENAMED = {"compiled": "compile", "open_to_all": "open"}
PATHS = ("tls_cert", "tls_key", "client_ca", "tokens", "state_dir")


def key_of(parameter: str) -> str:
    """Return the key in the file, and the option without dashes, of a parameter of the command."""
    return RENAMED.get(parameter, parameter).replace("_", "-")


class ServeFile(BaseModel):
    """What the file may hold. Ranges are checked where the options are, whoever gave them."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=key_of)

    models: dict[str, str] | None = None
    listen: str | None = None
    insecure: bool | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    tokens: str | None = None
    open_to_all: list[str] | None = None
    reflection: bool | None = None
    state_dir: str | None = None
    state: str | None = None
    roots: list[str] | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    max_sequences: int | None = None
    max_queued: int | None = None
    max_queued_tokens: int | None = None
    kv_cache_memory: str | int | None = None
    threads: int | None = None
    compiled: bool | None = None
    prefix_caching: bool | None = None
    rate_limit: float | None = None
    rate_burst: float | None = None
    max_calls: int | None = None
    max_calls_per_caller: int | None = None
    max_message: str | int | None = None
    keepalive: float | None = None
    keepalive_timeout: float | None = None
    max_connection_age: float | None = None
    max_connection_age_grace: float | None = None
    lame_duck_seconds: float | None = None
    drain_seconds: float | None = None
    keep_seconds: float | None = None
    jobs: int | None = None
    metrics: str | None = None
    traces: str | None = None
    log_json: bool | None = None
    log_calls: bool | None = None
    verbose: bool | None = None


def read_config(file: Path) -> dict[str, Any]:
    """Return the parameters of the command that the file sets.

    Raises:
        BadInput: no such file, or the first key at fault, what it has and what it may have.
    """
    try:
        text = file.read_text()
        content = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
        given = ServeFile.model_validate(content or {}).model_dump(exclude_none=True)
    except ValidationError as error:
        raise BadInput("config", file, first_error(error)) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput("config", file, " ".join(str(error).split())) from error
    return _parameters(given, file.absolute().parent)


def _parameters(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Turn what people write into a file into what they would write on the command line."""

    def located(path: str) -> str:
        return str(folder / Path(path).expanduser())

    for name in PATHS:
        if name in given:
            given[name] = located(given[name])
    if "models" in given:
        given["models"] = [f"{name}={located(path)}" for name, path in given["models"].items()]
    if "roots" in given:
        given["roots"] = ",".join(map(located, given["roots"]))
    if "open_to_all" in given:
        given["open_to_all"] = ",".join(given["open_to_all"])
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def document(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options that hold, as a file would give them; a password in a URL is left out."""
    found: dict[str, Any] = {}
    for name in ServeFile.model_fields:
        value = parameters.get(name)
        if name == "models":
            value = dict(argument.split("=", 1) for argument in value or [])
        elif name in ("roots", "open_to_all"):
            value = [part for part in (value or "").split(",") if part]
        elif name == "state":
            value = _without_password(value or "")
        found[key_of(name)] = str(value) if isinstance(value, Path) else value
    return found


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True) if url else url
    except ArgumentError:
        return url
