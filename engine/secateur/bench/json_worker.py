"""Processes that get a job as JSON on stdin and answer in JSON lines on stdout: both ends of that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from secateur.errors import BackendUnavailable


def run_json_worker(module: str, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run a module with a job on its standard input, and yield the JSON lines it prints.

    Raises:
        BackendUnavailable: it failed; with the last line of its errors.
    """
    command, pipe = [sys.executable, "-m", module], subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as worker:
            assert worker.stdin is not None and worker.stdout is not None
            try:
                with suppress(BrokenPipeError):  # it ended before it listened; why is among its errors
                    worker.stdin.write(json.dumps(job))
                    worker.stdin.close()
                yield from map(json.loads, worker.stdout)
            except BaseException:
                worker.kill()
                raise
        if worker.returncode:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise BackendUnavailable(f"vLLM could not be timed: {''.join(last)[:300]}")


def read_job() -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], None]]:
    """In the worker: its job, and a function that writes a line of the answer.

    Whatever libraries print on stdout goes to stderr from then on.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write_line(line: Mapping[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    return json.load(sys.stdin), write_line
