"""The process of a running benchmark."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from secateur.serve.benchmarks.tables import CANCELLED, FAILED, SUCCEEDED

MODULE = "secateur.bench.worker"
MAX_LINE_BYTES = 64 * 2**20  # of the one with the result
STOP_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class BenchmarkProgress:
    """What a benchmark does now, and how much of that is done."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class BenchmarkOutcome:
    """How a benchmark ended.

    Attributes:
        state: SUCCEEDED, FAILED or CANCELLED.
        result: what was measured; None = nothing.
        error: why it failed.
    """

    state: str
    result: Mapping[str, Any] | None
    error: str = ""


@dataclass
class RunningBenchmark:
    """A benchmark that runs.

    Attributes:
        progress: the latest.
        changed: set when there is news.
        ended: its outcome.
    """

    progress: BenchmarkProgress = field(default_factory=lambda: BenchmarkProgress("starting", 0.0))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    _process: Process | None = None

    async def run(self, job: Mapping[str, Any]) -> BenchmarkOutcome:
        """Start the process and read what it says until it ends."""
        reported: dict[str, Any] = {}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", MODULE),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=MAX_LINE_BYTES,
            process_group=0,  # Ctrl-C in a terminal reaches it only through us
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            if self.cancelled:  # while it was being started
                self.cancel()
            await self._give(job)
            async for line in self._lines():
                reported |= json.loads(line)
                if "stage" in reported:
                    self.progress = BenchmarkProgress(reported["stage"], reported["fraction"])
                    self.changed.set()
            status = await self._process.wait()
        finally:
            self._kill()
        return self._outcome(reported, status)

    def cancel(self) -> None:
        """Ask it to end with what there is; end it if it does not."""
        self.cancelled = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            asyncio.get_running_loop().call_later(STOP_GRACE_SECONDS, self._kill)

    async def _give(self, job: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with suppress(ConnectionError):  # it ended before it listened
            self._process.stdin.write(json.dumps(job).encode())
            await self._process.stdin.drain()
            self._process.stdin.close()

    def _lines(self) -> asyncio.StreamReader:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _outcome(self, reported: Mapping[str, Any], status: int) -> BenchmarkOutcome:
        result = reported.get("result")
        if self.cancelled:
            return BenchmarkOutcome(CANCELLED, result)
        if "error" in reported:
            return BenchmarkOutcome(FAILED, None, reported["error"])
        if result is None:
            return BenchmarkOutcome(FAILED, None, f"the load generator ended with exit status {status}")
        if result["benchmark"]["gave_up"]:
            return BenchmarkOutcome(FAILED, result, "the server stopped answering")
        return BenchmarkOutcome(SUCCEEDED, result)
