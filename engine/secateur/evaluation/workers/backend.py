"""What a pool asks of those who work for it, and what passes between them."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from secateur.evaluation.measurement import Evaluator, Losses
from secateur.model.architecture import Architecture


@dataclass(frozen=True)
class EvaluationTask:
    """A candidate to evaluate.

    Attributes:
        number: tells it from every other task of the pool.
        chunks: the chunks of windows to evaluate it on.
    """

    number: int
    candidate: Architecture
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class TaskResult:
    """What came of a task: losses, or the error that was raised."""

    task: int
    losses: Losses | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class WorkerDeath:
    """A worker ended without being asked to; `cause` says what is known of it."""

    cause: str


class WorkerBackend(Protocol):
    """Workers, numbered from 0. Each does the tasks it is given one after the other."""

    @property
    def size(self) -> int: ...

    def start(self, worker: int) -> None:
        """Start a worker, in place of one that died if there was one."""

    def submit(self, worker: int, task: EvaluationTask) -> None:
        """Hand a task to a worker; one that has died meanwhile is reported by `wait`."""

    def wait(self) -> Sequence[tuple[int, TaskResult | WorkerDeath]]:
        """Wait until something has happened; a death is told once."""

    def stop(self) -> None: ...


NO_TASK_ID = -1  # the task of an answer when a worker could not even begin


def run_task(evaluator: Evaluator, task: EvaluationTask, worker: str) -> TaskResult:
    """Do a task: what a worker does with it, wherever it runs."""
    try:
        ((_, losses),) = evaluator.losses([task.candidate], task.chunks)
    except Exception as error:  # whatever it is, it belongs to who asked
        return TaskResult(task.number, error=picklable_error(error, worker))
    return TaskResult(task.number, losses=losses)


def picklable_error(error: Exception, worker: str) -> Exception:
    """The error itself with a note of where it comes from, or its text if it cannot be sent."""
    origin = f"in {worker}:\n{''.join(traceback.format_exception(error))}"
    try:
        sent = pickle.loads(pickle.dumps(error))
    except Exception:  # any may come out of a foreign __reduce__ or __init__
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(origin)
    return sent
