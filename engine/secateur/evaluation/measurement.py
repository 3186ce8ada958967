"""What evaluating a candidate finds, and what every evaluator promises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

from secateur.model.architecture import Architecture


@dataclass(frozen=True)
class Measurement:
    """What one evaluation found, in nats per token, with standard errors over windows."""

    kl: float
    kl_stderr: float
    nll: float
    nll_stderr: float
    tokens: int


@dataclass(frozen=True)
class Losses:
    """Mean losses of each window, nats per token: what paired comparisons need.

    Attributes:
        kl: KL to the dense model, per window.
        nll: negative log-likelihood, per window.
        window_tokens: predicted tokens of a window.
    """

    kl: tuple[float, ...]
    nll: tuple[float, ...]
    window_tokens: int

    def __add__(self, other: Losses) -> Losses:
        if other.window_tokens != self.window_tokens:
            raise ValueError(f"windows of {self.window_tokens} and of {other.window_tokens} tokens")
        return Losses(self.kl + other.kl, self.nll + other.nll, self.window_tokens)

    def measurement(self) -> Measurement:
        """Means and their standard errors."""
        tokens = len(self.kl) * self.window_tokens
        return Measurement(fmean(self.kl), _stderr(self.kl), fmean(self.nll), _stderr(self.nll), tokens)


class Evaluator(Protocol):
    """Measures candidates on windows that come in chunks, the unit in which they are compared.

    A candidate's losses on a chunk are its own: they depend neither on the order nor on the grouping
    of candidates or chunks (`tests/evaluation/conformance.py` holds every evaluator to that).

    Attributes:
        at_once: candidates evaluated at a time.
    """

    at_once: int = 1

    @property
    def num_chunks(self) -> int:
        """Chunks of windows there are."""

    def losses(
        self, candidates: Sequence[Architecture], chunks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        """Each distinct candidate with its losses on those chunks (all of them), as they are done."""

    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        """Each distinct candidate measured on all chunks, in whatever order is cheapest, as they are done."""
        for candidate, losses in self.losses(candidates):
            yield candidate, losses.measurement()


def resolve_chunks(chunks: Iterable[int] | None, num_chunks: int) -> list[int]:
    """The chunks asked for: all of them for None.

    Raises:
        ValueError: none at all, or one that there is not.
    """
    chunk_indices = list(range(num_chunks) if chunks is None else chunks)
    if not chunk_indices:
        raise ValueError("chunks: none given; at least one is needed")
    out_of_range = [chunk for chunk in chunk_indices if not 0 <= chunk < num_chunks]
    if out_of_range:
        raise ValueError(f"chunks: {out_of_range[0]} given; allowed are 0 to {num_chunks - 1}")
    return chunk_indices


def _stderr(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
