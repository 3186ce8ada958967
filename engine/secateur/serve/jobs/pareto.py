"""The front of cost and KL as it grows."""

from __future__ import annotations

from collections.abc import Iterable

from secateur.model.architecture import Architecture
from secateur.space.costs.cost import Cost
from secateur.study.pareto import dominates
from secateur.study.trial import EvaluatedArchitecture
from secateur.v1 import prune_pb2


class ParetoFront:
    """The evaluated architectures that no other beats in both cost and KL.

    Args:
        cost: what is limited.
        dense: what fractions are of.
    """

    def __init__(self, cost: Cost, dense: Architecture) -> None:
        self._cost, self._dense = cost, cost.of(dense)
        self._front: dict[str, prune_pb2.FrontPoint] = {}
        self._reported: set[str] = set()

    def point(self, pair: EvaluatedArchitecture) -> prune_pb2.FrontPoint:
        """An evaluated architecture as clients see it."""
        kept_fraction = self._cost.of(pair.architecture) / self._dense
        return prune_pb2.FrontPoint(id=pair.architecture.digest, kept=kept_fraction, kl=pair.measurement.kl)

    def add(self, pair: EvaluatedArchitecture) -> None:
        """Let it join if nothing beats it; what it beats leaves."""
        new = self.point(pair)
        if not any(_dominates(other, new) for other in self._front.values()):
            self._front = {id_: point for id_, point in self._front.items() if not _dominates(new, point)}
            self._front[new.id] = new

    @property
    def unreported(self) -> list[prune_pb2.FrontPoint]:
        """Points of the front that nobody was told of, the smallest first."""
        new = [point for id_, point in self._front.items() if id_ not in self._reported]
        return sorted(new, key=lambda point: point.kept)

    def mark_reported(self, points: Iterable[prune_pb2.FrontPoint]) -> None:
        """Note who was told of."""
        self._reported |= {point.id for point in points}


def _dominates(one: prune_pb2.FrontPoint, other: prune_pb2.FrontPoint) -> bool:
    return dominates((one.kept, one.kl), (other.kept, other.kl))
