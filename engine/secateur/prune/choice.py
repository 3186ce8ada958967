"""The choice among finalists on unseen text, as certain as the text allows.

The least KL wins. But a few dozen windows cannot tell every two architectures apart: a paired bootstrap over
windows says which of them the best may only have beaten by luck. Among those the one that is faster to serve
is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Measurement
from secateur.evaluation.race import race
from secateur.model.architecture import KINDS, Architecture
from secateur.progress import ProgressReporter
from secateur.space.budget import Budget, Goal
from secateur.study.trial import EvaluatedArchitecture

FINALISTS = 4
CONFIDENCE = 0.95
_DRAWS = 4000


@dataclass(frozen=True)
class Alike:
    """A finalist that cannot be told from the one with the least KL.

    Attributes:
        excess: mean KL above the least, nats per token, on the windows that both have seen.
        interval: where it lies by the paired bootstrap, at `CONFIDENCE`.
    """

    architecture: Architecture
    excess: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Choice:
    """The finalist that was taken.

    Attributes:
        trial: as the search knows it.
        unseen: what its plain cut loses on unseen text.
        windows: of unseen text on which finalists were compared.
        alike: those that could not be told apart, the one with the least KL and the one taken among them.
    """

    trial: EvaluatedArchitecture
    unseen: Measurement
    windows: int
    alike: tuple[Alike, ...]

    @property
    def architecture(self) -> Architecture:
        return self.trial.architecture

    def to_json(self) -> dict[str, Any]:
        """What ``secateur.json`` says of it."""
        rows = [
            {
                "kl_above_least": round(one.excess, 6),
                "interval": [round(end, 6) for end in one.interval],
                "sub_blocks": num_sub_blocks(one.architecture),
                "taken": one.architecture == self.architecture,
            }
            for one in self.alike
        ]
        return {"windows": self.windows, "confidence": CONFIDENCE, "alike": rows}


def finalists(ranked: list[EvaluatedArchitecture]) -> list[EvaluatedArchitecture]:
    """The best trials, and the best of the first round: less fitted to the search windows."""
    seeds = [trial for trial in ranked if trial.round == 1]
    return list(dict.fromkeys([*ranked[:FINALISTS], *seeds[:1]]))


def choose(
    goal: Goal,
    candidates: Sequence[EvaluatedArchitecture],
    evaluator: PrefixEvaluator,
    reporter: ProgressReporter,
) -> Choice:
    """The best candidate on the evaluator's windows; who is surely beaten stops early."""
    by_architecture = {trial.architecture: trial for trial in candidates}
    title = f"judging {len(by_architecture)} finalists for {goal.name} on unseen text"
    reporter.stage(title, evaluator.num_chunks)
    done = 0
    for rung in race(evaluator, list(by_architecture)):
        reporter.step(f"{rung.running} finalists left", rung.chunks - done)
        done = rung.chunks
        running = list(rung.losses)[: rung.running]
        kl_of = {item: rung.losses[item].kl for item in running}
    alike = _alike(kl_of)
    taken = min((one.architecture for one in alike), key=lambda item: serving_cost(item, goal.budget))
    # What the race left out; the rest is remembered but for the head.
    ((_, unseen),) = evaluator.evaluate([taken])
    if done < evaluator.num_chunks:
        reporter.step("the others are beaten", evaluator.num_chunks - done)
    choice = Choice(by_architecture[taken], unseen, len(kl_of[taken]), alike)
    if len(alike) > 1:
        reporter.message(_described(choice))
    return choice


def serving_cost(candidate: Architecture, budget: Budget) -> tuple[int, ...]:
    """What serving takes, to compare architectures by: measured latency where it limits the budget.

    Otherwise sub-blocks first: each is several kernels and a norm, whatever its width. Then KV groups, which
    every token of the context is read for, then channels.
    """
    for limit in budget.limits:
        if limit.kind == "latency":
            return (limit.cost.of(candidate),)
    return num_sub_blocks(candidate), sum(candidate.groups), sum(candidate.channels)


def num_sub_blocks(candidate: Architecture) -> int:
    """How many sub-blocks are left."""
    widths = (candidate.width(layer, kind) for layer in range(candidate.num_layers) for kind in KINDS)
    return sum(width > 0 for width in widths)


def paired_interval(
    kl: Sequence[float], reference_kl: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Where the mean difference of losses on common windows lies: a percentile bootstrap over windows.

    The same for the same losses; with one window it is that difference.
    """
    differences = np.subtract(kl, reference_kl)
    drawn = np.random.default_rng(0).integers(0, len(differences), (_DRAWS, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _alike(kl_of: dict[Architecture, tuple[float, ...]]) -> tuple[Alike, ...]:
    """Those whose interval reaches the best, the best first."""
    best_kl = kl_of[next(iter(kl_of))]
    compared = (
        Alike(item, fmean(kl) - fmean(best_kl), paired_interval(kl, best_kl)) for item, kl in kl_of.items()
    )
    return tuple(one for one in compared if one.interval[0] <= 0)


def _described(choice: Choice) -> str:
    taken = next(one for one in choice.alike if one.architecture == choice.architecture)
    low, high = taken.interval
    return (
        f"{len(choice.alike)} finalists cannot be told apart on {choice.windows} windows; the fastest to "
        f"serve was taken: {num_sub_blocks(taken.architecture)} sub-blocks, KL {taken.excess:+.4f} from the "
        f"least ({CONFIDENCE:.0%} between {low:+.4f} and {high:+.4f})"
    )
