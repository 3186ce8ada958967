"""What a command says: one JSON document on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
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
)

# Seconds between two lines of progress where there is no terminal to draw a bar on.
LINE_INTERVAL = 15.0
PACE_STEPS = 32  # as many of the latest steps tell how long the others will take
MIN_PACE_STEPS = 2


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


class _Pace:
    """How long the rest will take, by the pace of the latest steps.

    The first step is not counted: it warms up caches and threads, and often takes many times as long.
    """

    def __init__(self, total: float) -> None:
        self.done = 0.0
        self._total = total
        self._ends: deque[tuple[float, float]] = deque(maxlen=PACE_STEPS + 1)  # when so much was done

    def step(self, steps: float) -> float:
        """Count steps that have just ended; returns the time."""
        now = time.monotonic()
        self.done += steps
        self._ends.append((now, self.done))
        return now

    @property
    def left(self) -> str:
        """The estimate for people; empty while there is nothing to base one on."""
        if len(self._ends) < MIN_PACE_STEPS + 1:
            return ""
        (first, done_then), (last, done) = self._ends[0], self._ends[-1]
        seconds = (last - first) / (done - done_then) * (self._total - done)
        return f"about {duration(seconds)} left" if seconds > 0 else ""


@contextmanager
def _bar(description: str, total: float) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress_bar:
        task = progress_bar.add_task(description, total=total, note="", left="")
        pace = _Pace(total)

        def advance(steps: float = 1, note: str = "") -> None:
            pace.step(steps)
            progress_bar.update(task, advance=steps, note=note, left=pace.left)

        yield advance


@contextmanager
def _lines(description: str, total: float) -> Iterator[Advance]:
    started = last = time.monotonic()
    pace = _Pace(total)
    print_status(f"{description} ...")

    def advance(steps: float = 1, note: str = "") -> None:
        nonlocal last
        now = pace.step(steps)
        if now - last >= LINE_INTERVAL and pace.done < total:
            last = now
            parts = (f"{description}: {pace.done:g}/{total:g}", pace.left, note)
            print_status(", ".join(filter(None, parts)))

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
