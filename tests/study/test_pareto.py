"""The front: nobody on it is dominated, everybody off it is, whatever ties there are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from secateur.study.pareto import dominates, front

# Few values, so that equal points and equal coordinates are common.
COORDINATE = st.integers(0, 6).map(float)


def clouds(dimensions: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[COORDINATE] * dimensions), max_size=40)


CLOUDS = st.integers(1, 3).flatmap(clouds)


@given(CLOUDS)
def test_on_it_exactly_when_undominated(points: list[tuple[float, ...]]) -> None:
    on = set(front(points))
    for index, point in enumerate(points):
        dominated = any(dominates(other, point) for other in points)
        assert dominated == (index not in on)


@given(CLOUDS)
def test_each_once_and_in_order(points: list[tuple[float, ...]]) -> None:
    found = front(points)
    assert len(set(found)) == len(found)
    assert [points[i] for i in found] == sorted(points[i] for i in found)


@given(clouds(2))
def test_a_second_objective_falls_along_a_front_of_two(points: list[tuple[float, ...]]) -> None:
    along = [points[i] for i in front(points)]
    distinct = list(dict.fromkeys(along))
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(distinct))


def test_equal_points_stay_together() -> None:
    assert front([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0), (2.0, 2.0)]) == [0, 2, 1]


def test_same_cost_only_the_better() -> None:
    assert front([(1.0, 3.0), (1.0, 2.0), (3.0, 2.0)]) == [1]


def test_nothing() -> None:
    assert front([]) == []
