"""Progress of a job with stages, drawn on stderr."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from secateur.cli.console import Advance, print_status, progress
from secateur.cli.options import in_flags
from secateur.progress import ProgressReporter


class StageReporter(ProgressReporter):
    """Shows one stage after another, each with its progress and the time it still needs."""

    def __init__(self) -> None:
        self._open: AbstractContextManager[Advance] | None = None
        self._advance: Advance | None = None

    def __enter__(self) -> StageReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind, error, trace)

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` steps; the one before it is over."""
        self._close(None, None, None)
        self._open = progress(name, total)
        self._advance = self._open.__enter__()

    def step(self, note: str = "", count: int = 1) -> None:
        if self._advance is not None:
            self._advance(count, note)

    def message(self, line: str) -> None:
        """Print a line; the current stage is over."""
        self._close(None, None, None)
        print_status(in_flags(line))

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is None:
            return
        closing, self._open, self._advance = self._open, None, None
        try:
            closing.__exit__(kind, error, trace)
        except BaseException as raised:
            if raised is not error:
                raise
