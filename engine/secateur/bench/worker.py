"""The process of a benchmark that a server runs on itself. Started by `serve.benchmarks`; speaks JSON lines.

Reads a job from stdin, says how it goes, and ends with a line that has either ``result`` or ``error``.
SIGTERM ends it early, with what there is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.bench.document import benchmark_document
from secateur.bench.json_worker import read_job
from secateur.bench.output import RECORDS, write_report
from secateur.bench.run import interruptible, run
from secateur.client.endpoint import Endpoint
from secateur.config.bench import BenchOptions
from secateur.config.values import from_json
from secateur.errors import SecateurError
from secateur.progress import SilentReporter


@dataclass
class LineReporter(SilentReporter):
    """Writes a line of JSON for everything that the server is to know."""

    write_line: Callable[[Mapping[str, Any]], None]
    name: str = ""
    total: int = 1
    done: int = 0

    def stage(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.step(count=0)

    def step(self, note: str = "", count: int = 1) -> None:
        self.done += count
        self.write_line({"stage": self.name, "fraction": min(1.0, self.done / self.total)})


def main() -> None:
    """Run the job on stdin."""
    job, write_line = read_job()
    try:
        options, folder = from_json(BenchOptions, job["options"]), Path(job["folder"])
        access, reporter = Endpoint(token=job["token"] or None), LineReporter(write_line)
        log = asyncio.run(interruptible(lambda stop: run(options, access, folder / RECORDS, reporter, stop)))
        write_report(folder, log)
    except SecateurError as error:
        write_line({"error": str(error), "bad_input": error.exit_status == 2})
        return
    write_line({"result": benchmark_document(log)})


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    main()
