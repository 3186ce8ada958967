"""What every sampler promises, and what it is told of the problem."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from secateur.model.architecture import Architecture, Slot
from secateur.search.predictor import AUTO_SELECT, SelectedPredictor
from secateur.search.table import AdditiveTable
from secateur.space.budget import Budget
from secateur.space.shapes import consolidate
from secateur.space.space import Space
from secateur.study.trial import EvaluatedArchitecture

ROUND_SIZE = 12  # proposals that are evaluated together, sharing prefixes
_HALVINGS = 40


@dataclass(frozen=True)
class Problem:
    """What a search is about.

    Attributes:
        table: None for a sampler that asked for none.
        evaluations: how many the search will make.
        predictor: a regressor or `predictor.AUTO_SELECT`, for samplers that have one.
    """

    space: Space
    budget: Budget
    table: AdditiveTable | None
    evaluations: int
    seed: int
    predictor: str = AUTO_SELECT

    def conform(self, candidate: Architecture) -> Architecture:
        """The candidate, or what is near it where it has more layer shapes than the space allows.

        Every proposal of every sampler goes through here.
        """
        if not self.space.limits_shapes:
            return candidate
        return consolidate(
            self.space, self.budget, self.table.kl if self.table else uniform_values(self.space), candidate
        )


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate.

    Attributes:
        origin: where it came from.
        predicted: the log KL predicted for it, where a predictor chose it.
    """

    architecture: Architecture
    origin: str
    predicted: float | None = None


class SamplerReport(Protocol):
    """What a sampler has to say beyond its proposals."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Round:
    """What to evaluate next.

    Attributes:
        proposals: none when the sampler has nothing more to say.
        selected_predictor: the predictor that ranked them, where one did.
        space_share: share of all widths that are still being tried.
        report: for the record, where the sampler has one.
    """

    proposals: Sequence[Proposal]
    selected_predictor: SelectedPredictor | None = None
    space_share: float = 1.0
    report: SamplerReport | None = None


class Sampler(Protocol):
    """Chooses architectures round by round.

    A round is a function of the problem and of the trials of earlier rounds alone, so that a search
    that was killed proposes the same again (`tests/search/samplers` holds every sampler to that).
    Proposals are of the space and new. They fit the budget, but for those of `greedy` before its last
    round and of `paper` in its first.

    Attributes:
        round_size: proposals per round; 1 for samplers that learn from every single trial.
    """

    round_size: int

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """Round `number` (from 1, each asked for once and in order) of at most `count` proposals.

        Args:
            done: trials of the earlier rounds, in the order they were proposed; for `guided` also those
                of the rounds for the study's other budgets.
        """


def uniform_values(space: Space) -> dict[Slot, dict[int, float]]:
    """Values that say that every sub-block is worth the same: the square of what is cut of it."""
    return {
        slot: {width: (1 - width / max(space.dense.width(*slot), 1)) ** 2 for width in space.widths(*slot)}
        for slot in space.slots
    }


def new_proposals(proposals: Iterable[Proposal], evaluated: Collection[Architecture]) -> list[Proposal]:
    """The proposals whose architecture was not evaluated, each once."""
    seen_architectures = set(evaluated)
    unseen = []
    for proposal in proposals:
        if proposal.architecture not in seen_architectures:
            seen_architectures.add(proposal.architecture)
            unseen.append(proposal)
    return unseen


def architectures(trials: Iterable[EvaluatedArchitecture]) -> set[Architecture]:
    return {trial.architecture for trial in trials}


def project(space: Space, budget: Budget, fractions: Sequence[float]) -> Architecture:
    """The architecture of some kept fractions, all raised or lowered alike until the budget is just met.

    Args:
        fractions: kept fraction of every sub-block, in the order of `space.slots`, each in [0, 1].
    """
    low, high = -1.0, 1.0
    if budget.fits(shifted(space, fractions, high)):
        return shifted(space, fractions, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if budget.fits(shifted(space, fractions, middle)):
            low = middle
        else:
            high = middle
    return shifted(space, fractions, low)


def shifted(space: Space, fractions: Sequence[float], by: float) -> Architecture:
    """Every fraction moved by the same amount, then down to an allowed width."""
    widths = {}
    for slot, fraction in zip(space.slots, fractions, strict=True):
        allowed = space.widths(*slot)
        target_width = (fraction + by) * space.dense.width(*slot) + 1e-6
        widths[slot] = allowed[max(0, bisect_right(allowed, target_width) - 1)]
    return Architecture.of_widths(widths)
