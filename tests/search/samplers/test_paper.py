"""The paper's sampler: its shares of pairs, its split, its report, and what it proposes at the end.

The truth here is a law that the trees can learn: one sub-block matters much, one not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from secateur.config.prune import PAPER_EVALUATIONS
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture
from secateur.search.samplers import paper as paper_module
from secateur.search.samplers.paper import BASELINE, FINALIST, PaperReport, PaperSampler
from secateur.search.samplers.sampler import Problem, Proposal
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.space import Space
from secateur.study.trial import EvaluatedArchitecture, best_first

SPACE = Space(Architecture((4,) * 20, (640,) * 20), 64)
COST = Cost(
    "units",
    7,
    {
        slot: {width: width * (100 if slot[1] == "attention" else 3) for width in SPACE.widths(*slot)}
        for slot in SPACE.slots
    },
)
LIMIT = Budget((Limit("params", COST, int(0.8 * COST.of(SPACE.dense))),))
PRECIOUS, WORTHLESS = (5, "ffn"), (9, "ffn")


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_module, "CANDIDATES", 1000)


def sampler(evaluations: int = PAPER_EVALUATIONS, seed: int = 0) -> PaperSampler:
    return PaperSampler(Problem(SPACE, LIMIT, None, evaluations, seed))


def cut(candidate: Architecture, slot: tuple[int, str]) -> float:
    return 1 - candidate.width(*slot) / SPACE.dense.width(*slot)  # type: ignore[arg-type]


def loss(candidate: Architecture) -> float:
    others = sum(cut(candidate, slot) for slot in SPACE.slots if slot not in (PRECIOUS, WORTHLESS))
    return 0.01 + 3.0 * cut(candidate, PRECIOUS) + 0.05 * others


def measured(proposals: Sequence[Proposal], number: int = 1) -> list[EvaluatedArchitecture]:
    return [
        EvaluatedArchitecture(
            p.architecture, Measurement(loss(p.architecture), 0, loss(p.architecture), 0, 1), number, p.origin
        )
        for p in proposals
    ]


def played(seed: int = 0) -> tuple[list[EvaluatedArchitecture], Sequence[Proposal], PaperReport]:
    made = sampler(seed=seed)
    trials = measured(made.propose([], 1, made.round_size).proposals)
    last = made.propose(trials, 2, PAPER_EVALUATIONS - len(trials))
    assert isinstance(last.report, PaperReport)
    return trials, last.proposals, last.report


def test_the_papers_numbers() -> None:
    proposals = sampler().propose([], 1, sampler().round_size).proposals
    origins = [proposal.origin for proposal in proposals]
    assert len({proposal.architecture for proposal in proposals}) == len(proposals) == 525
    assert (origins.count("grouped"), origins.count("free")) == (400, 125)


def test_finalists_are_the_baseline_and_the_best_predicted_within_the_budget() -> None:
    trials, finalists, report = played()
    assert [item.origin for item in finalists] == [BASELINE] + [FINALIST] * 18
    assert all(LIMIT.fits(item.architecture) and SPACE.contains(item.architecture) for item in finalists)
    assert report.candidates == 1000
    within = best_first(trial for trial in trials if LIMIT.fits(trial.architecture))
    losses = [loss(item.architecture) for item in finalists]
    assert min(losses[1:]) < min(losses[0], within[0].measurement.kl)


def test_the_baseline_is_even() -> None:
    _, finalists, _ = played()
    inside = finalists[0].architecture.channels[2:18]
    assert max(inside) - min(inside) <= SPACE.quantum < 640 - max(inside)
    assert {*finalists[0].architecture.channels[:2], *finalists[0].architecture.channels[18:]} == {640}


def test_report_of_what_was_learned() -> None:
    _, _, report = played()
    assert (report.train, report.held_out) == (368, 157)
    assert report.r2 is not None and report.r2 > 0.9
    assert report.tau is not None and report.tau > 0.8
    assert report.mse is not None and report.rmse == pytest.approx(report.mse**0.5, rel=0.05)
    assert max(report.importance, key=lambda name: report.importance[name]) == "layer 5 ffn"
    assert report.ranges["layer 5 ffn"] == (1, 3)
    assert report.ranges["layer 9 ffn"] == (2, 7)
    assert sum(report.importance.values()) == pytest.approx(1, abs=0.01)


def test_held_out_pairs_are_not_learned() -> None:
    """Losses that are a hash of the shape cannot be predicted; trees that had seen them would seem to."""
    made = sampler()
    proposals = made.propose([], 1, made.round_size).proposals
    noise = [int(p.architecture.digest, 16) % 1000 + 1 for p in proposals]
    trials = [
        EvaluatedArchitecture(p.architecture, Measurement(n, 0, n, 0, 1), 1, p.origin)
        for p, n in zip(proposals, noise, strict=True)
    ]
    report = made.propose(trials, 2, 19).report
    assert isinstance(report, PaperReport)
    assert report.r2 is not None and report.r2 < 0.2
    assert report.tau is not None and abs(report.tau) < 0.2


def test_nothing_after_the_finalists() -> None:
    trials, finalists, _ = played()
    assert not sampler().propose([*trials, *measured(finalists, 2)], 3, 5).proposals


def test_losses_that_do_not_differ_are_reported_as_such() -> None:
    made = sampler(evaluations=24)
    proposals = made.propose([], 1, made.round_size).proposals
    trials = [
        EvaluatedArchitecture(p.architecture, Measurement(1.0, 0, 1.0, 0, 1), 1, p.origin) for p in proposals
    ]
    last = made.propose(trials, 2, 6)
    assert isinstance(last.report, PaperReport)
    assert last.report.tau is None and last.proposals


def test_a_budget_that_the_ends_alone_exceed_gets_the_even_trim() -> None:
    tight = Budget((Limit("params", COST, int(0.15 * COST.of(SPACE.dense))),))
    made = PaperSampler(Problem(SPACE, tight, None, 24, 0))
    trials = measured(made.propose([], 1, made.round_size).proposals)
    last = made.propose(trials, 2, 6).proposals
    assert [item.origin for item in last] == [BASELINE]
    assert tight.fits(last[0].architecture)
