"""How a job's process says that it has come to an end of its own: one file, whole or absent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.rpc import code_pb2, status_pb2

from secateur.serve.failures import FieldViolation, RpcError
from secateur.storage import write_json
from secateur.v1 import prune_pb2

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class JobOutcome:
    """What a job's process came to.

    Attributes:
        checkpoints: the folders it made; empty if it refused.
        refusal: why the job cannot be done: trying again would not help.
        field: the option at fault, if it is one's.
    """

    checkpoints: tuple[str, ...] = ()
    refusal: str = ""
    field: str = ""


def write_outcome(folder: Path, outcome: JobOutcome) -> None:
    write_json(folder / OUTCOME_FILE, asdict(outcome))


def read_outcome(folder: Path) -> JobOutcome | None:
    """What was said; None if the process ended without, or the file is damaged: the job then runs again."""
    try:
        fields: dict[str, Any] = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
        return JobOutcome(tuple(fields["checkpoints"]), str(fields["refusal"]), str(fields["field"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def clear_outcome(folder: Path) -> None:
    """Forget what an earlier process said."""
    (folder / OUTCOME_FILE).unlink(missing_ok=True)


def result_of(checkpoints: Sequence[str]) -> prune_pb2.PruneJobResult:
    """The result of a job, from the records in its checkpoints."""
    return prune_pb2.PruneJobResult(checkpoints=[_checkpoint(Path(folder)) for folder in checkpoints])


def _checkpoint(folder: Path) -> prune_pb2.PruneCheckpoint:
    record = json.loads((folder / "secateur.json").read_text(encoding="utf-8"))
    (validation,) = record["slim"]["perplexity"]
    return prune_pb2.PruneCheckpoint(
        folder=str(folder),
        parameters=prune_pb2.ParameterCounts(**record["parameters"]),
        kept=prune_pb2.ParameterCounts(**record["kept"]),
        dense_perplexity=record["dense"]["perplexity"][validation],
        slim_perplexity=record["slim"]["perplexity"][validation],
        evaluations=record["search"]["evaluations"],
    )


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
    last_line_suffix = f": {line}" if line else ""
    if status is None:
        # Not our child, whether we watched it or it ended before we came.
        return f"it ended; how, only the server that started it could tell{last_line_suffix}"
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}{last_line_suffix}"
        return f"killed by signal {-status}{last_line_suffix}"
    return f"exit status {status}{last_line_suffix}"


def _last_line(log: Path) -> str:
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[:300]
    return ""
