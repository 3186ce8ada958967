"""The work queue of a pool: everything once, neighbours together, nobody idles while another has two left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secateur.evaluation.workers.pool import WorkQueue
from secateur.model.architecture import Architecture


def shapes(count: int) -> list[Architecture]:
    return [Architecture((1 + number,), (0,)) for number in range(count)]


def test_pieces_are_contiguous() -> None:
    queue = WorkQueue(shapes(12)[::-1], 3)
    assert [queue.next(worker) for worker in (0, 1, 2, 0, 1, 2)] == [
        shapes(12)[n] for n in (0, 4, 8, 1, 5, 9)
    ]


def test_the_idle_take_half_from_the_end_in_order() -> None:
    queue = WorkQueue(shapes(8), 2)
    assert [queue.next(0) for _ in range(6)] == [shapes(8)[n] for n in (0, 1, 2, 3, 6, 7)]
    assert [queue.next(worker) for worker in (1, 1, 1)] == [shapes(8)[4], shapes(8)[5], None]


def test_requeued_comes_next() -> None:
    queue = WorkQueue(shapes(4), 2)
    first = queue.next(1)
    assert first is not None
    queue.requeue(1, first)
    assert queue.next(1) == first


@given(st.integers(0, 30), st.integers(1, 5), st.lists(st.integers(0, 4), max_size=60))
def test_everything_once(count: int, workers: int, turns: list[int]) -> None:
    queue = WorkQueue(shapes(count), workers)
    dealt = [queue.next(turn % workers) for turn in [*turns, *([0] * count)]]
    found = [item for item in dealt if item is not None]
    assert sorted(found) == shapes(count)
