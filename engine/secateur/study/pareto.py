"""The Pareto front: what no other point beats in everything."""

from __future__ import annotations

from collections.abc import Sequence

Point = Sequence[float]


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere worse than `other` and somewhere better; less is better."""
    trials = list(zip(one, other, strict=True))
    return all(a <= b for a, b in trials) and any(a < b for a, b in trials)


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates, in lexicographic order of the points.

    Equal points do not dominate each other: all of them are on the front, or none.

    Args:
        points: objectives of each point, less is better; finite, as many for each.
    """
    # Whatever dominates a point comes before it in this order, and something on the front dominates it too.
    front_indices: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (tuple(points[index]), index)):
        if not any(dominates(points[other_index], points[index]) for other_index in front_indices):
            front_indices.append(index)
    return front_indices
