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
class Task:
    """A candidate to evaluate.

    Attributes:
        number: tells it from every other task of the pool.
        blocks: the blocks of windows to evaluate it on.
    """

    number: int
    candidate: Architecture
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a task: losses, or the error that was raised."""

    task: int
    losses: Losses | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Death:
    """A worker ended without being asked to; `cause` says what is known of it."""

    cause: str


class Crew(Protocol):
    """Workers, numbered from 0. Each does the tasks it is given one after the other."""

    @property
    def size(self) -> int:
        """How many there are."""

    def hire(self, worker: int) -> None:
        """Start a worker, in place of one that died if there was one."""

    def give(self, worker: int, task: Task) -> None:
        """Hand a task to a worker; one that has died meanwhile is reported by `wait`."""

    def wait(self) -> Sequence[tuple[int, Answer | Death]]:
        """Wait until something has happened; a death is told once."""

    def dismiss(self) -> None:
        """End all workers."""


NO_TASK = -1  # the task of an answer when a worker could not even begin


def answer(evaluator: Evaluator, task: Task, worker: str) -> Answer:
    """Do a task: what a worker does with it, wherever it runs."""
    try:
        ((_, losses),) = evaluator.losses([task.candidate], task.blocks)
    except Exception as error:  # whatever it is, it belongs to who asked
        return Answer(task.number, error=portable(error, worker))
    return Answer(task.number, losses=losses)


def portable(error: Exception, worker: str) -> Exception:
    """The error itself with a note of where it comes from, or its text if it cannot be sent."""
    origin = f"in {worker}:\n{''.join(traceback.format_exception(error))}"
    try:
        sent = pickle.loads(pickle.dumps(error))
    except Exception:  # any may come out of a foreign __reduce__ or __init__
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(origin)
    return sent
