"""Dealing candidates to workers so that neighbours, which share prefixes, stay together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from secateur.model.architecture import Architecture


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
