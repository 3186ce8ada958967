"""What the end of a job's process means."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.rpc import code_pb2, status_pb2

from secateur.serve.failures import FieldViolation, RpcError
from secateur.serve.jobs.outcome import JobOutcome, read_outcome, result_of
from secateur.v1 import prune_pb2

_TAIL_BYTES = 8192


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended.

    Attributes:
        result: what it made.
        refusal: why the job cannot be done, whoever tries.
        death: why it has neither: for people, in one line.
    """

    result: prune_pb2.PruneJobResult | None = None
    refusal: status_pb2.Status | None = None
    death: str = ""


def read_process_exit(folder: Path, status: int | None, log: Path) -> ProcessExit:
    """Judge a process that is gone.

    Args:
        status: its exit status, -N for signal N; None if it is not known.
        log: what it printed.
    """
    outcome = read_outcome(folder)
    if outcome is None:
        return ProcessExit(death=_death(status, log))
    if outcome.refusal:
        return ProcessExit(refusal=_refusal(outcome))
    return ProcessExit(result=result_of(outcome.checkpoints))


def died_error(death: str, attempts: int) -> status_pb2.Status:
    """The error of a job whose process died too often."""
    message = f"its process died {attempts} times, last: {death}"
    return RpcError(
        code_pb2.INTERNAL, "PROCESS_DIED", message, metadata={"attempts": str(attempts)}
    ).to_status()


def cancelled_error() -> status_pb2.Status:
    """The error of a job that was cancelled."""
    message = "cancelled; what was evaluated is kept for another run"
    return RpcError(code_pb2.CANCELLED, "CANCELLED", message).to_status()


def internal_error(error: Exception) -> status_pb2.Status:
    """The error of a job that met a bug of the server."""
    return RpcError(code_pb2.INTERNAL, "INTERNAL", f"{type(error).__name__}: {error}").to_status()


def _refusal(outcome: JobOutcome) -> status_pb2.Status:
    violations = [FieldViolation(outcome.field, outcome.refusal)] if outcome.field else []
    return RpcError(code_pb2.FAILED_PRECONDITION, "PRUNE_REFUSED", outcome.refusal, violations).to_status()


def _death(status: int | None, log: Path) -> str:
    line = _last_line(log)
    said = f": {line}" if line else ""
    if status is None:
        # Not our child, whether we watched it or it ended before we came.
        return f"it ended; how, only the server that started it could tell{said}"
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}{said}"
        return f"killed by signal {-status}{said}"
    return f"exit status {status}{said}"


def _last_line(log: Path) -> str:
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[:300]
    return ""
