"""An evaluator that has its candidates evaluated by workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

from secateur.errors import SecateurError
from secateur.evaluation.measurement import Losses, Measurement, wanted_blocks
from secateur.evaluation.workers.crew import NO_TASK, Answer, Crew, Death, Task
from secateur.evaluation.workers.deal import Deal
from secateur.model.architecture import Architecture

MAX_DEATHS = 3  # of workers over the same candidate, or of one before it has done anything


class WorkerPool:
    """The evaluator for several processes or machines; obeys the same laws as one alone.

    Workers start with the first candidates and stay until `close`. One that dies loses only what it was
    at: that goes to another, and the worker is replaced.

    Args:
        crew: the workers.
        num_blocks: blocks of windows there are.

    Attributes:
        at_once: candidates evaluated at a time.
        deaths: workers that died so far.

    Raises:
        SecateurError: from `losses` and `evaluate`: workers die again and again. Whatever an evaluation
            raises in a worker is raised here.
    """

    def __init__(self, crew: Crew, num_blocks: int) -> None:
        self._crew = crew
        self._num_blocks = num_blocks
        self._hired = False
        self._tasks = 0
        self._fruitless: Counter[int] = Counter()
        self.deaths = 0

    @property
    def num_blocks(self) -> int:
        """Blocks of windows there are."""
        return self._num_blocks

    @property
    def at_once(self) -> int:
        """Candidates evaluated at a time."""
        return self._crew.size

    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        """Each distinct candidate measured on all windows, as they are done."""
        for candidate, losses in self.losses(candidates):
            yield candidate, losses.measurement()

    def losses(
        self, candidates: Sequence[Architecture], blocks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        """Each distinct candidate with its losses on those blocks, as they are done."""
        wanted = tuple(wanted_blocks(blocks, self.num_blocks))
        distinct = set(candidates)
        if not distinct:
            return
        self._hire()
        deal = Deal(tuple(distinct), self._crew.size)
        deaths: Counter[Architecture] = Counter()
        running: dict[int, Task] = {}
        for worker in range(self._crew.size):
            self._hand(worker, deal, wanted, running)
        while running:
            finished: list[tuple[Architecture, Losses]] = []
            events = self._crew.wait()
            for worker, event in events:  # first, as an error below ends this
                if isinstance(event, Death):
                    self._bury(worker, event, deal, running, deaths)
            for worker, event in events:
                if isinstance(event, Answer) and self._is_current(worker, event, running):
                    assert event.losses is not None  # or it was an error, which is raised
                    finished.append((running.pop(worker).candidate, event.losses))
            for worker in range(self._crew.size):
                if worker not in running:
                    self._hand(worker, deal, wanted, running)
            yield from finished

    def close(self) -> None:
        """End the workers; a pool may be used again and starts others."""
        self._crew.dismiss()
        self._hired = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hire(self) -> None:
        if not self._hired:
            self._fruitless.clear()
            self._hired = True
            for worker in range(self._crew.size):
                self._crew.hire(worker)

    def _hand(self, worker: int, deal: Deal, blocks: tuple[int, ...], running: dict[int, Task]) -> None:
        candidate = deal.next(worker)
        if candidate is not None:
            self._tasks += 1
            running[worker] = Task(self._tasks, candidate, blocks)
            self._crew.give(worker, running[worker])

    def _is_current(self, worker: int, event: Answer, running: dict[int, Task]) -> bool:
        """Whether it answers what was asked last; raises its error.

        Other answers are to tasks of an evaluation that was broken off.
        """
        if event.error is not None and event.task == NO_TASK:
            raise event.error
        self._fruitless[worker] = 0
        if worker not in running or event.task != running[worker].number:
            return False
        if event.error is not None:
            raise event.error
        return True

    def _bury(
        self,
        worker: int,
        death: Death,
        deal: Deal,
        running: dict[int, Task],
        deaths: Counter[Architecture],
    ) -> None:
        self.deaths += 1
        self._fruitless[worker] += 1
        task = running.pop(worker, None)
        if task is not None:
            deaths[task.candidate] += 1
            deal.put_back(worker, task.candidate)
        same = deaths[task.candidate] if task else 0
        if max(same, self._fruitless[worker]) >= MAX_DEATHS:
            self.close()
            at = f" at architecture {task.candidate.digest}" if task else ""
            raise SecateurError(
                f"`workers`: a worker died {MAX_DEATHS} times{at} ({death.cause}); "
                "if memory is short, fewer workers need less"
            )
        self._crew.hire(worker)
