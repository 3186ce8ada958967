"""Children of evaluated architectures, on the budget, thousands at a time.

A child keeps its parent's widths up to a random depth, the deeper of two draws: what it shares with its
parent and its siblings need not be evaluated again (`prefixes`). Behind that depth it may get the tail of
another parent, and a few sub-blocks of other widths. Then sub-blocks are narrowed until every limit
holds, and widened until nothing more fits, those first that lose least (gain most) per cost by a table
with noise of the child's own: moves that trade budget between sub-blocks.

Shape suffixes: N children, P parents, S sub-blocks, W widths, L limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.space.grid import Grid, at

CROSSOVER = 0.3
JUMP_PROBABILITY = 0.1  # share of moves that remove a sub-block or make it whole
MAX_MOVES = 3  # at most, per child
MAX_STEP_ATTENTION, MAX_STEP_FFN = 1, 4  # steps of a move
NOISE_STD = 0.35  # of the log of the table's rows
_STRIDES = (1, 2, 4, 8)  # of widening; several, as the first channels of a removed FFN gain nothing alone
_EXACT = 1e-9  # shares of a budget are sums of 60 quotients


@dataclass(frozen=True)
class Breeder:
    """Makes children that fit a budget.

    Attributes:
        values_SW: what a width loses, by the additive table; falls with the width.
        costs_LSW: what it takes of each limit (`Grid.costs`); 1 is the whole limit.
        allowed_SW: widths that may be moved to; parents may have others.
    """

    grid: Grid
    values_SW: np.ndarray
    costs_LSW: np.ndarray
    allowed_SW: np.ndarray

    def breed(self, parents_PS: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` children [N, S], equal ones and copies of parents among them; all fit if anything does.

        Args:
            parents_PS: best first; the better, the more children.
        """
        slots = parents_PS.shape[1]
        depth_N = rng.integers(slots, size=(count, 2)).max(1)
        tail_NS = np.arange(slots) >= depth_N[:, None]
        child_NS = parents_PS[_rank_weighted(len(parents_PS), count, rng)]
        other_NS = parents_PS[rng.integers(len(parents_PS), size=count)]
        crossed_N = rng.random(count) < CROSSOVER
        child_NS = np.where(tail_NS & crossed_N[:, None], other_NS, child_NS)
        self._move(child_NS, depth_N, rng)
        scale_NS = np.exp(rng.normal(0.0, NOISE_STD, child_NS.shape))
        self._narrow(child_NS, scale_NS, tail_NS)
        self._widen(child_NS, scale_NS, tail_NS)
        self._widen(child_NS, scale_NS, np.ones_like(tail_NS))  # where the tail is full already
        return child_NS[self._spent(child_NS).max(0) <= 1 + _EXACT]

    def fit(self, start_NS: np.ndarray) -> np.ndarray:
        """Architectures narrowed and widened to the edge of the budget, by the table alone."""
        child_NS, everywhere = start_NS.copy(), np.ones(start_NS.shape, dtype=bool)
        self._narrow(child_NS, np.ones(child_NS.shape), everywhere)
        self._widen(child_NS, np.ones(child_NS.shape), everywhere)
        return child_NS[self._spent(child_NS).max(0) <= 1 + _EXACT]

    def _spent(self, index_NS: np.ndarray) -> np.ndarray:
        """Share of every limit that is taken [L, N]."""
        return np.stack([at(costs_SW, index_NS).sum(1) for costs_SW in self.costs_LSW])

    def _move(self, child_NS: np.ndarray, depth_N: np.ndarray, rng: np.random.Generator) -> None:
        rows = np.arange(len(child_NS))
        slots, moves_N = child_NS.shape[1], rng.integers(1, MAX_MOVES + 1, size=len(child_NS))
        for number in range(MAX_MOVES):
            slot_N = depth_N + (rng.random(len(rows)) * (slots - depth_N)).astype(np.int64)
            reach_N = np.where(self.grid.is_attention_S[slot_N], MAX_STEP_ATTENTION, MAX_STEP_FFN)
            step_N = np.rint((2 * rng.random(len(rows)) - 1) * (reach_N + 0.49)).astype(np.int64)
            there_N = np.clip(child_NS[rows, slot_N] + step_N, 0, self.grid.top_S[slot_N])
            jump_N, whole_N = rng.random(len(rows)) < JUMP_PROBABILITY, rng.random(len(rows)) < 0.5
            there_N = np.where(jump_N, np.where(whole_N, self.grid.top_S[slot_N], 0), there_N)
            moved_N = (number < moves_N) & self.allowed_SW[slot_N, there_N]
            child_NS[rows[moved_N], slot_N[moved_N]] = there_N[moved_N]

    def _narrow(self, child_NS: np.ndarray, scale_NS: np.ndarray, tail_NS: np.ndarray) -> None:
        """One step narrower or removed, again and again; elsewhere only where the tail has nothing left."""
        over = np.flatnonzero(self._spent(child_NS).max(0) > 1 + _EXACT)
        while len(over):
            here_NS = child_NS[over]
            weight_LN = np.maximum(self._spent(here_NS) - 1, 0.0)  # the limits that are exceeded
            score_NS, best_NS = np.full(here_NS.shape, np.inf), here_NS.copy()
            for there_NS in (np.maximum(here_NS - 1, 0), np.zeros_like(here_NS)):
                saved_NS = self._difference(here_NS, there_NS, weight_LN)
                lost_NS = (at(self.values_SW, there_NS) - at(self.values_SW, here_NS)) * scale_NS[over]
                price_NS = np.where(saved_NS > 0, lost_NS / np.maximum(saved_NS, 1e-30), np.inf)
                price_NS = np.where(
                    at(self.allowed_SW, there_NS) | (price_NS == np.inf), price_NS, price_NS + 1e18
                )
                better_NS = price_NS < score_NS
                score_NS, best_NS = (
                    np.where(better_NS, price_NS, score_NS),
                    np.where(better_NS, there_NS, best_NS),
                )
            inside_NS = np.where(tail_NS[over], score_NS, np.inf)
            empty_N = np.isinf(inside_NS.min(1))
            inside_NS[empty_N] = score_NS[empty_N]
            slot_N, rows = inside_NS.argmin(1), np.arange(len(over))
            stuck_N = np.isinf(inside_NS[rows, slot_N])
            child_NS[over, slot_N] = best_NS[rows, slot_N]
            still_N = self._spent(child_NS[over]).max(0) > 1 + _EXACT
            over = over[still_N & ~stuck_N]

    def _widen(self, child_NS: np.ndarray, scale_NS: np.ndarray, where_NS: np.ndarray) -> None:
        """The widening that gains most per cost of what still fits, again and again."""
        open_N = np.arange(len(child_NS))
        while len(open_N):
            here_NS = child_NS[open_N]
            slack_LN = 1 - self._spent(here_NS)
            score_NS, best_NS = np.zeros(here_NS.shape), here_NS.copy()
            for stride in _STRIDES:
                there_NS = np.minimum(here_NS + stride, self.grid.top_S)
                extra_LNS = np.stack([at(rows, there_NS) - at(rows, here_NS) for rows in self.costs_LSW])
                gain_NS = (at(self.values_SW, here_NS) - at(self.values_SW, there_NS)) * scale_NS[open_N]
                fits_NS = (extra_LNS <= slack_LN[:, :, None] + _EXACT).all(0) & (there_NS > here_NS)
                fits_NS &= where_NS[open_N] & at(self.allowed_SW, there_NS)
                rate_NS = np.where(fits_NS, (gain_NS + 1e-12) / np.maximum(extra_LNS.max(0), 1e-12), 0.0)
                better_NS = rate_NS > score_NS
                score_NS, best_NS = (
                    np.where(better_NS, rate_NS, score_NS),
                    np.where(better_NS, there_NS, best_NS),
                )
            slot_N, rows = score_NS.argmax(1), np.arange(len(open_N))
            child_NS[open_N, slot_N] = best_NS[rows, slot_N]
            open_N = open_N[score_NS[rows, slot_N] > 0]

    def _difference(self, here_NS: np.ndarray, there_NS: np.ndarray, weight_LN: np.ndarray) -> np.ndarray:
        """Cost saved by going from one to the other [N, S], limits weighted."""
        saved = [at(rows, here_NS) - at(rows, there_NS) for rows in self.costs_LSW]
        return np.einsum("lns,ln->ns", np.stack(saved), weight_LN / weight_LN.sum(0))


def _rank_weighted(parents: int, count: int, rng: np.random.Generator) -> np.ndarray:
    weights = 1.0 / (1.0 + np.arange(parents))
    return rng.choice(parents, size=count, p=weights / weights.sum())
