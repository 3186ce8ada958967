"""Traces: requests of a JSONL file, with their own times and lengths.

A line is an object with these fields, of which the names in brackets are other tools' for the same:

    timestamp       milliseconds from the beginning (Mooncake, AIPerf); all lines have one, or none has
    input_length    tokens of the prompt (prompt_len, input_tokens)
    prompt          its text (text, text_input), instead of its length
    output_length   tokens of the answer (output_len, output_tokens, max_tokens)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import BadInput

FIELD_NAMES = {
    "timestamp": ("timestamp",),
    "input": ("input_length", "prompt_len", "input_tokens"),
    "prompt": ("prompt", "text", "text_input"),
    "output": ("output_length", "output_len", "output_tokens", "max_tokens"),
}


@dataclass(frozen=True)
class TraceEntry:
    """A line of a trace.

    Attributes:
        at: seconds from the beginning of the trace; None = the trace has no times.
        input_tokens: length of the prompt; None if there is its text.
        text: of the prompt; None = one of that length is made up.
        output_tokens: length of the answer; None = the length given for all.
    """

    at: float | None
    input_tokens: int | None
    text: str | None
    output_tokens: int | None


def read_trace(file: Path) -> tuple[TraceEntry, ...]:
    """The entries of a trace, in order of time.

    Raises:
        BadInput: it cannot be read, or a line is wrong; names the line and the field.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise BadInput("trace", file, reason) from error
    entries = [_entry(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise BadInput("trace", file, "has no line")
    timed = sum(entry.at is not None for entry in entries)
    if timed not in (0, len(entries)):
        raise BadInput("trace", file, f"{timed} of {len(entries)} lines have a timestamp: all or none")
    ordered = sorted(entries, key=lambda entry: entry.at or 0.0)
    begin = ordered[0].at or 0.0
    return tuple(
        TraceEntry(None if e.at is None else round(e.at - begin, 6), e.input_tokens, e.text, e.output_tokens)
        for e in ordered
    )


def _entry(number: int, line: str) -> TraceEntry:
    try:
        line_fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput("trace", f"line {number}", f"not JSON: {error}") from error
    if not isinstance(line_fields, dict):
        raise BadInput("trace", f"line {number}", "not a JSON object")
    text = _field(number, line_fields, "prompt", str)
    length = _field(number, line_fields, "input", int)
    if text is None and length is None:
        raise BadInput(
            "trace",
            f"line {number}",
            f"give one of {', '.join(FIELD_NAMES['input'] + FIELD_NAMES['prompt'])}",
        )
    at = _field(number, line_fields, "timestamp", float)
    return TraceEntry(
        None if at is None else at / 1e3, length, text, _field(number, line_fields, "output", int)
    )


def _field(number: int, line_fields: Mapping[str, Any], what: str, kind: type) -> Any:
    """The value of a field under any of its names; None if there is none."""
    for name in FIELD_NAMES[what]:
        value = line_fields.get(name)
        if value is None:
            continue
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
        if kind is int and isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        if kind is str and isinstance(value, str) and value:
            return value
        expected = {float: "a number of at least 0", int: "a whole number above 0", str: "a text"}[kind]
        raise BadInput("trace", f"line {number}, {name}={value!r:.50}", expected)
    return None
