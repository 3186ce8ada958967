"""How a job's process says that it has come to an end of its own: one file, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    """What was said; None if the process ended without."""
    file = folder / OUTCOME_FILE
    if not file.is_file():
        return None
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return JobOutcome(tuple(said["checkpoints"]), said["refusal"], said["field"])


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
