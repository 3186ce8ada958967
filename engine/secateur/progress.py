"""What a job tells while it runs, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


class ProgressReporter(Protocol):
    """Told what a job is doing; the command line draws it, a server streams it."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins; `total` steps will follow."""

    def step(self, note: str = "", count: int = 1) -> None:
        """Steps of the current stage are done."""

    def message(self, line: str) -> None:
        """Something worth a line."""


class SilentReporter:
    """Tells nobody."""

    def stage(self, name: str, total: int) -> None: ...

    def step(self, note: str = "", count: int = 1) -> None: ...

    def message(self, line: str) -> None: ...


@dataclass
class StageTimer:
    """Seconds per stage of this run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside towards `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 2)
