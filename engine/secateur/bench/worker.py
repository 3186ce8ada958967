"""The process of a benchmark that a server runs on itself. Started by `serve.benchmarks`; speaks JSON lines.

Reads a job from stdin, says how it goes, and ends with a line that has either ``result`` or ``error``.
SIGTERM ends it early, with what there is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from secateur.bench.document import benchmark_document
from secateur.bench.interrupts import interruptible
from secateur.bench.load.stage import ClosedLoop, LoadPattern, OpenLoop, StopCondition
from secateur.bench.metrics.slo import parse_slo
from secateur.bench.options import BenchmarkTargetSpec, BenchOptions
from secateur.bench.place import RECORDS
from secateur.bench.run import run
from secateur.bench.written import write_report
from secateur.client.endpoint import Endpoint
from secateur.errors import SecateurError


@dataclass
class JsonReporter:
    """Tells the server how it goes."""

    answers: TextIO
    name: str = ""
    total: int = 1
    done: int = 0

    def stage(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.step(count=0)

    def step(self, note: str = "", count: int = 1) -> None:
        self.done += count
        write_line(self.answers, {"stage": self.name, "fraction": min(1.0, self.done / self.total)})

    def say(self, line: str) -> None:
        """Nobody reads it."""


def main() -> None:
    """Run the job on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not come between the answers
    job = json.load(sys.stdin)
    try:
        options, folder = options_of(job), Path(job["folder"])
        log = asyncio.run(
            interruptible(lambda stop: run(options, folder / RECORDS, JsonReporter(answers), stop))
        )
        write_report(folder, log)
    except SecateurError as error:
        write_line(answers, {"error": str(error), "bad_input": error.exit_status == 2})
        return
    write_line(answers, {"result": benchmark_document(log)})


def options_of(job: Mapping[str, Any]) -> BenchOptions:
    """The options of a job.

    Raises:
        BadInput: a number out of range.
    """
    loads: list[LoadPattern] = [ClosedLoop(count) for count in job["concurrencies"]]
    loads += [OpenLoop(rate, poisson=not job["constant"]) for rate in job["rates"]]
    return BenchOptions(
        subjects=tuple(BenchmarkTargetSpec(model, job["target"]) for model in job["models"]),
        loads=tuple(loads),
        extent=StopCondition(seconds=job["seconds"]),
        rounds=job["rounds"],
        input_tokens=job["input_tokens"],
        output_tokens=job["output_tokens"],
        slo=parse_slo(job["slo"]) if job["slo"] else None,
        access=Endpoint("localhost:0", token=job["token"] or None),
    )


def write_line(answers: TextIO, line: Mapping[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    main()
