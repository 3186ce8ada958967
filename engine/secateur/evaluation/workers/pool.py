"""An evaluator that has its candidates evaluated by workers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise

from secateur.errors import SecateurError
from secateur.evaluation.measurement import Evaluator, Losses, resolve_chunks
from secateur.evaluation.opening import EvaluatorSpec
from secateur.evaluation.workers.backend import (
    NO_TASK_ID,
    EvaluationTask,
    TaskResult,
    WorkerBackend,
    WorkerDeath,
)
from secateur.evaluation.workers.process_backend import ProcessBackend
from secateur.model.architecture import Architecture

MAX_DEATHS = 3  # of workers over the same candidate, or of one before it has done anything


class WorkQueue:
    """Contiguous pieces of the lexicographic order, one per worker; who has none left takes from another's.

    Args:
        candidates: distinct ones.
        workers: number of pieces.
    """

    def __init__(self, candidates: Sequence[Architecture], workers: int) -> None:
        ordered = sorted(candidates, key=lambda item: item.path)
        bounds = [len(ordered) * piece // workers for piece in range(workers + 1)]
        self._queues = [deque(ordered[a:b]) for a, b in pairwise(bounds)]

    def next(self, worker: int) -> Architecture | None:
        """The next candidate for a worker; None when all are dealt."""
        own_queue = self._queues[worker]
        if not own_queue:
            longest = max(self._queues, key=len)
            stolen = [longest.pop() for _ in range((len(longest) + 1) // 2)]
            own_queue.extend(reversed(stolen))
        return own_queue.popleft() if own_queue else None

    def requeue(self, worker: int, candidate: Architecture) -> None:
        """Return a candidate that a worker did not finish; it is its next one."""
        self._queues[worker].appendleft(candidate)


class WorkerPool(Evaluator, AbstractContextManager["WorkerPool"]):
    """The evaluator for several processes or machines; obeys the same laws as one alone.

    Workers start with the first candidates and stay until `close`. One that dies loses only what it was
    at: that goes to another, and the worker is replaced.

    Args:
        backend: the workers.
        num_chunks: chunks of windows there are.

    Attributes:
        at_once: candidates evaluated at a time.
        deaths: workers that died so far.

    Raises:
        SecateurError: from `losses` and `evaluate`: workers die again and again. Whatever an evaluation
            raises in a worker is raised here.
    """

    def __init__(self, backend: WorkerBackend, num_chunks: int) -> None:
        self._backend = backend
        self._num_chunks = num_chunks
        self.at_once = backend.size
        self._started = False
        self._tasks = 0
        self._idle_crashes: Counter[int] = Counter()
        self.deaths = 0

    @property
    def num_chunks(self) -> int:
        """Chunks of windows there are."""
        return self._num_chunks

    def losses(
        self, candidates: Sequence[Architecture], chunks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        """Each distinct candidate with its losses on those chunks, as they are done."""
        chunk_indices = tuple(resolve_chunks(chunks, self.num_chunks))
        distinct = set(candidates)
        if not distinct:
            return
        self._start_workers()
        queue = WorkQueue(tuple(distinct), self._backend.size)
        deaths: Counter[Architecture] = Counter()
        running: dict[int, EvaluationTask] = {}
        for worker in range(self._backend.size):
            self._assign(worker, queue, chunk_indices, running)
        while running:
            finished: list[tuple[Architecture, Losses]] = []
            events = self._backend.wait()
            for worker, event in events:  # first, as an error below ends this
                if isinstance(event, WorkerDeath):
                    self._handle_death(worker, event, queue, running, deaths)
            for worker, event in events:
                if isinstance(event, TaskResult) and self._is_current(worker, event, running):
                    assert event.losses is not None  # or it was an error, which is raised
                    finished.append((running.pop(worker).candidate, event.losses))
            for worker in range(self._backend.size):
                if worker not in running:
                    self._assign(worker, queue, chunk_indices, running)
            yield from finished

    def close(self) -> None:
        """End the workers; a pool may be used again and starts others."""
        self._backend.stop()
        self._started = False

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_workers(self) -> None:
        if not self._started:
            self._idle_crashes.clear()
            self._started = True
            for worker in range(self._backend.size):
                self._backend.start(worker)

    def _assign(
        self, worker: int, queue: WorkQueue, chunks: tuple[int, ...], running: dict[int, EvaluationTask]
    ) -> None:
        candidate = queue.next(worker)
        if candidate is not None:
            self._tasks += 1
            running[worker] = EvaluationTask(self._tasks, candidate, chunks)
            self._backend.submit(worker, running[worker])

    def _is_current(self, worker: int, event: TaskResult, running: dict[int, EvaluationTask]) -> bool:
        """Whether it answers what was asked last; raises its error.

        Other answers are to tasks of an evaluation that was broken off.
        """
        if event.error is not None and event.task == NO_TASK_ID:
            raise event.error
        self._idle_crashes[worker] = 0
        if worker not in running or event.task != running[worker].number:
            return False
        if event.error is not None:
            raise event.error
        return True

    def _handle_death(
        self,
        worker: int,
        death: WorkerDeath,
        queue: WorkQueue,
        running: dict[int, EvaluationTask],
        deaths: Counter[Architecture],
    ) -> None:
        self.deaths += 1
        self._idle_crashes[worker] += 1
        task = running.pop(worker, None)
        if task is not None:
            deaths[task.candidate] += 1
            queue.requeue(worker, task.candidate)
        same = deaths[task.candidate] if task else 0
        if max(same, self._idle_crashes[worker]) >= MAX_DEATHS:
            self.close()
            at = f" at architecture {task.candidate.digest}" if task else ""
            raise SecateurError(
                f"`workers`: a worker died {MAX_DEATHS} times{at} ({death.cause}); "
                "if memory is short, fewer workers need less"
            )
        self._backend.start(worker)


def open_pool(spec: EvaluatorSpec, workers: int | None = None, ray: str | None = None) -> WorkerPool:
    """A pool of local processes, or of a Ray cluster's actors; starts none of them yet.

    Args:
        spec: what one of them evaluates with; local ones share its limits for states and projections
            (each needs the dense model's distributions whole).
        workers: how many; None for one, or with Ray for one per CPU of the cluster.
        ray: address of a Ray cluster.

    Raises:
        BackendUnavailable: Ray is asked for and not installed.
        BadInput: there is no such cluster.
    """
    if ray is not None:
        from secateur.evaluation.workers.ray_backend import RayBackend

        backend: WorkerBackend = RayBackend(spec, ray, workers)
    else:
        size = workers or 1
        library = replace(spec.library, cache_bytes=spec.library.cache_bytes // size)
        share = replace(spec, library=library, state_bytes=spec.state_bytes // size)
        backend = ProcessBackend(share, size)
    return WorkerPool(backend, spec.num_chunks)
