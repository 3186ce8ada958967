"""Files written by people, checked against a schema: the first thing wrong, as one line."""

from __future__ import annotations

import re

from pydantic import ValidationError

_TYPE = re.compile(r"str|int|float|bool|(list|dict)\[.*\]")


def first_error(error: ValidationError) -> str:
    """Say where the first mistake is, what is there, and what may be."""
    first = error.errors(include_url=False)[0]
    # Of a value that may have several types pydantic names the one that it tried.
    loc = [part for part in first["loc"] if isinstance(part, int) or not _TYPE.fullmatch(part)]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "extra_forbidden") or isinstance(first["input"], dict | list):
        given = ""
    else:
        given = f"got {first['input']}: "
    message = {"missing": "is needed", "extra_forbidden": "no such key"}.get(first["type"], message)
    return f"{where}: {given}{message}" if where else message
