"""Parameters of a request, and sampling parameters, from JSON or from the protocol's own values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.inference.sampling import SamplingSettings

MAX_INT64 = 2**63 - 1


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a map of InferParameter or ModelRepositoryParameter; None for an empty one."""
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else None
    return values


def read_json(field: str, text: str) -> dict[str, Any]:
    """Return an object given as JSON.

    Raises:
        RpcError: INVALID_ARGUMENT naming ``field``.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(FieldViolation(field, f"not JSON: {error}")) from error
    if not isinstance(values, dict):
        raise invalid_argument(FieldViolation(field, "not a JSON object"))
    return values


def read_sampling(values: Mapping[str, Any], prefix: str) -> SamplingSettings:
    """Return sampling parameters; absent ones, and those that are null, have their defaults.

    Numbers may be texts ("0.5"), as some clients send them; ``stop`` may be one text.

    Args:
        values: by the names that secateur.v1.SamplingParameters has, which are vLLM's.
        prefix: of these names, for complaints.

    Raises:
        RpcError: INVALID_ARGUMENT naming each that is unknown or has a value of another type.
    """
    sampling_values: dict[str, Any] = {}
    violations = []
    for name, value in values.items():
        reader = READERS.get(name)
        if reader is None:
            violations.append(FieldViolation(prefix + name, f"unknown; known are {', '.join(READERS)}"))
        elif value is not None:
            try:
                sampling_values[name] = reader(value)
            except (ValueError, OverflowError) as error:
                violations.append(FieldViolation(prefix + name, f"got {_shown(value)}, {error}"))
    if violations:
        raise invalid_argument(*violations)
    return SamplingSettings(**sampling_values)


def read_int(value: Any) -> int:
    """Read a whole number.

    Raises:
        ValueError: it is none.
        OverflowError: it has more than 64 bits.
    """
    number: Any = value
    if isinstance(value, str):
        number = _parsed(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError("allowed is a whole number")
    if abs(number) > MAX_INT64:
        raise OverflowError("allowed is a number of 64 bits")
    return number


def read_float(value: Any) -> float:
    """Read a number.

    Raises:
        ValueError: it is none.
    """
    number = _parsed(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError("allowed is a number")
    return float(number)


def read_bool(value: Any) -> bool:
    """Read true or false.

    Raises:
        ValueError: it is neither.
    """
    bool_words = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in bool_words:
        return bool_words[value.lower()]
    if not isinstance(value, bool):
        raise ValueError("allowed is true or false")
    return value


def _top_k(value: Any) -> int:
    number = read_int(value)
    return 0 if number == -1 else number  # vLLM's other way of saying "all"


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("allowed is a text or a list of texts")
    return tuple(texts)


def _ids(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):  # request parameters cannot be lists
        value = _parsed(value)
    if not isinstance(value, list):
        raise ValueError("allowed is a list of token ids")
    return tuple(map(read_int, value))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


READERS: Mapping[str, Callable[[Any], Any]] = {
    "n": read_int,
    "temperature": read_float,
    "top_p": read_float,
    "top_k": _top_k,
    "min_p": read_float,
    "repetition_penalty": read_float,
    "presence_penalty": read_float,
    "frequency_penalty": read_float,
    "max_tokens": read_int,
    "min_tokens": read_int,
    "stop": _texts,
    "stop_token_ids": _ids,
    "seed": read_int,
    "ignore_eos": read_bool,
    "logprobs": read_int,
    "stream_interval": read_int,
}
