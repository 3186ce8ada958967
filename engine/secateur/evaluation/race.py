"""Racing: candidates run over the same windows chunk by chunk, and who is surely beaten stops.

Two candidates see the same text, so their per-window differences are far less noisy than either mean:
a paired one-sided t-test on common windows decides (the idea of irace and of Optuna's Wilcoxon
pruner; with four windows in a first chunk a signed-rank test cannot reach 1 %, a t-test can).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from secateur.evaluation.measurement import Evaluator, Losses
from secateur.model.architecture import Architecture

DEFAULT_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Rung:
    """The standing after some chunks.

    Attributes:
        chunks: chunks run so far by those still running.
        losses: of every candidate on the chunks it has run, best first: those running by their mean KL,
            then those dropped, the last dropped first.
        running: how many of them are still in the race.
    """

    chunks: int
    losses: dict[Architecture, Losses]
    running: int

    @property
    def best(self) -> Architecture:
        return next(iter(self.losses))


def race(
    evaluator: Evaluator,
    candidates: Sequence[Architecture],
    *,
    survivors: int = 1,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Iterator[Rung]:
    """Run candidates over 1, 2, 4, ... chunks, dropping after each rung who is beaten; yields each rung.

    The result does not depend on the order of `candidates`. It ends when all chunks are run or only
    `survivors` are left.

    Args:
        evaluator: of the common windows.
        candidates: at least one.
        survivors: never dropped below this many; a candidate is dropped when the worst of the leading
            `survivors` beats it.
        confidence: one-sided, of each single test.

    Raises:
        ValueError: no candidates, no survivors, or a confidence outside 0.5 to 1.
    """
    if not candidates:
        raise ValueError("candidates: none given; at least one is needed")
    if survivors < 1:
        raise ValueError(f"survivors: {survivors} given; at least 1 is needed")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence: {confidence} given; allowed are 0.5 to below 1")
    running = sorted(set(candidates))
    losses: dict[Architecture, Losses] = {}
    dropped: list[Architecture] = []
    done = 0
    while done < evaluator.num_chunks and (not done or len(running) > survivors):
        end_chunk = min(max(1, 2 * done), evaluator.num_chunks)
        for candidate, chunk_losses in evaluator.losses(running, range(done, end_chunk)):
            losses[candidate] = losses[candidate] + chunk_losses if candidate in losses else chunk_losses
        done = end_chunk
        running.sort(key=lambda item: (fmean(losses[item].kl), item))
        reference_kl = losses[running[min(survivors, len(running)) - 1]].kl
        beaten = [
            item
            for item in running[survivors:]
            if is_significantly_worse(losses[item].kl, reference_kl, confidence)
        ]
        running = [item for item in running if item not in beaten]
        dropped = beaten + dropped
        yield Rung(done, {item: losses[item] for item in (*running, *dropped)}, len(running))


def is_significantly_worse(kl: Sequence[float], reference_kl: Sequence[float], confidence: float) -> bool:
    """Whether per-window losses lie above others on the same windows, by a paired one-sided t-test."""
    from scipy.stats import t

    differences = [a - b for a, b in zip(kl, reference_kl, strict=True)]
    mean = fmean(differences)
    if len(differences) < 2 or mean <= 0:
        return False
    spread = stdev(differences) / math.sqrt(len(differences))
    return spread == 0 or mean / spread > float(t.ppf(confidence, len(differences) - 1))
