"""What a command says: one JSON document on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Seconds between two lines of progress where there is no terminal to draw a bar on.
LINE_INTERVAL = 15.0


console = Console(stderr=True, highlight=False, soft_wrap=True)
_wide = Console(stderr=True, highlight=False, width=150)  # where no terminal says how wide it is


def print_status(text: str) -> None:
    """Print one line for a person, without interpreting brackets in it."""
    console.print(text, markup=False)


def print_table(table: RenderableType) -> None:
    """Print a wide table for a person."""
    (console if console.is_terminal else _wide).print(table)


def emit_json(document: Mapping[str, Any]) -> None:
    """Print the one JSON document of a command on stdout.

    A number that JSON cannot write (infinite or not a number) becomes null.
    """
    print(json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr whatever libraries and child processes print on stdout meanwhile.

    Works on the file descriptor too, because vLLM's engine process inherits it and logs there.
    Commands do their work inside and call `emit_json` after it.
    """
    sys.stdout.flush()
    saved_stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(saved_stdout, 1)
        os.close(saved_stdout)


# Called with the steps newly done (1 unless said) and optionally a note on what is going on.
Advance = Callable[..., None]


@contextmanager
def progress(description: str, total: float) -> Iterator[Advance]:
    """Show the progress of long work on stderr; yields the function that advances it.

    A bar with the time remaining on a terminal; elsewhere a line at the start, every
    `LINE_INTERVAL` seconds, and at the end.
    """
    show = _bar if console.is_terminal else _lines
    with show(description, total) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: float) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress_bar:
        task = progress_bar.add_task(description, total=total, note="")

        def advance(steps: float = 1, note: str = "") -> None:
            progress_bar.update(task, advance=steps, note=note)

        yield advance


@contextmanager
def _lines(description: str, total: float) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0.0
    print_status(f"{description} ...")

    def advance(steps: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= LINE_INTERVAL and done < total:
            last = now
            seconds_left = (now - started) / done * (total - done) if done else math.nan
            print_status(
                f"{description}: {done:g}/{total:g}, about {duration(seconds_left)} left {note}".rstrip()
            )

    yield advance
    print_status(f"{description}: done in {duration(time.monotonic() - started)}")


def duration(seconds: float) -> str:
    """Return a duration as a person would say it: ``8 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def print_error(message: str) -> None:
    """Print an error as one line on stderr."""
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
