"""Ranking criteria: in which order the units of a sub-block are worth keeping.

A criterion sees one sub-block's statistics and returns an order of its units, most important
first. Units are KV groups (attention) or channels (FFN); a unit spans `span` inner channels.

Shape suffixes: U units, S inner channels of a unit, N = U*S inner channels, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from secateur.calibrate.elimination import Elimination, invert, obs_cost
from secateur.calibrate.least_squares import damped
from secateur.errors import BadInput
from secateur.model.decoder import AttentionWeights, SubBlock

_GREEDY_FRACTION_PER_STEP = 96  # greedy elimination takes 1/96 of the units per step
_FISHER_SHRINKAGE = 1.0  # of its mean diagonal; a few thousand tokens say little of most directions


@dataclass(frozen=True)
class SubBlockStats:
    """What a criterion may look at.

    Attributes:
        block: the sub-block.
        weight_HN: its last projection.
        gram_NN: Gram matrix of its inner activations.
        span: inner channels per unit.
        taylor_N: first-order Taylor scores of the inner channels, where they were collected.
        fisher_HH: Fisher matrix of the residual stream after the sub-block, where it was collected.
    """

    block: SubBlock
    weight_HN: Tensor
    gram_NN: Tensor
    span: int
    taylor_N: Tensor | None = None
    fisher_HH: Tensor | None = None

    @property
    def num_units(self) -> int:
        return self.weight_HN.shape[1] // self.span


class Criterion(Protocol):
    """Orders units: a function of the statistics of one sub-block and nothing else."""

    def __call__(self, stats: SubBlockStats, *, shrinkage: float) -> Tensor:
        """Unit indices [U], most important first."""


def _by_score(score_U: Tensor) -> Tensor:
    return torch.argsort(score_U, descending=True, stable=True)


def _per_unit(score_N: Tensor, span: int) -> Tensor:
    return score_N.view(-1, span).sum(-1)


def magnitude(stats: SubBlockStats, *, shrinkage: float) -> Tensor:
    """Squared norm of all coupled weights of a unit (the L2 criterion of LLM-Pruner)."""
    block = stats.block
    rows: tuple[Tensor, ...]
    if isinstance(block, AttentionWeights):
        rows = (block.query_QH, block.key_KH, block.value_KH)
    else:
        rows = (block.gate_CH, block.up_CH)
    score_U = _per_unit(stats.weight_HN.float().square().sum(0), stats.span)
    for matrix in rows:
        score_U = score_U + matrix.float().square().sum(-1).view(stats.num_units, -1).sum(-1)
    return _by_score(score_U)


def activation(stats: SubBlockStats, *, shrinkage: float) -> Tensor:
    """||w_j||^2 E[x_j^2], the structured form of Wanda (arXiv 2306.11695)."""
    score_N = stats.weight_HN.float().square().sum(0) * stats.gram_NN.diagonal()
    return _by_score(_per_unit(score_N, stats.span))


def taylor(stats: SubBlockStats, *, shrinkage: float) -> Tensor:
    """First-order Taylor: the loss change when a unit's activations go to zero (see `gradients`)."""
    if stats.taylor_N is None:
        raise BadInput("criterion", "taylor", "needs gradients, which this calibration did not collect")
    return _by_score(_per_unit(stats.taylor_N, stats.span))


def obs(stats: SubBlockStats, *, shrinkage: float) -> Tensor:
    """OBS cost of removing one unit with all others re-fitted: tr(w_j ((C^-1)_jj)^-1 w_j^T)."""
    inverse = invert(damped(stats.gram_NN, shrinkage))
    return _by_score(obs_cost(stats.weight_HN.double(), inverse, stats.span))


def obs_greedy(stats: SubBlockStats, *, shrinkage: float) -> Tensor:
    """Units removed a few at a time by OBS cost, the rest re-fitted after each step (arXiv 2302.04089).

    The reverse of the order of removal. Unlike `obs`, two units that can replace each other are
    not both called unimportant.
    """
    inverse_NN = invert(damped(stats.gram_NN, shrinkage))
    weight_HN = stats.weight_HN.to(torch.float64, copy=True)
    elimination = Elimination(weight_HN, inverse_NN, stats.span)
    del inverse_NN  # it is the elimination's, which soon has a smaller one
    removed: list[Tensor] = []
    step = max(1, stats.num_units // _GREEDY_FRACTION_PER_STEP)
    while elimination.num_units > step:
        removed.append(elimination.remove(torch.argsort(elimination.cost(), stable=True)[:step]))
    elimination.compact()
    last = elimination.units_U[_by_score(elimination.cost())]
    return torch.cat([last, *reversed([part.flip(0) for part in removed])])


def obs_fisher(stats: SubBlockStats, *, shrinkage: float) -> Tensor:
    """As `obs-greedy`, errors measured by what the model's output feels of them (see `gradients`)."""
    if stats.fisher_HH is None:
        raise BadInput("criterion", "obs-fisher", "needs gradients, which this calibration did not collect")
    root_HH = torch.linalg.cholesky(damped(stats.fisher_HH, _FISHER_SHRINKAGE))
    weighted = replace(stats, weight_HN=root_HH.T @ stats.weight_HN.double())
    return obs_greedy(weighted, shrinkage=shrinkage)


CRITERIA: dict[str, Criterion] = {
    "obs-greedy": obs_greedy,
    "obs": obs,
    "activation": activation,
    "magnitude": magnitude,
    "taylor": taylor,
    "obs-fisher": obs_fisher,
}
# Those whose statistics take a backward pass.
GRADIENT_CRITERIA = ("taylor", "obs-fisher")
