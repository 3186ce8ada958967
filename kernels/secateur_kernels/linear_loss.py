"""Per-token losses straight from hidden states and head weight; logits exist only chunk by chunk.

The KL against a teacher is computed from the *difference* of the hidden states. With p the
teacher's distribution, d = hidden - teacher and delta = d @ head.T,

    KL = log(sum_v p_v exp(delta_v - m)),   m = sum_v p_v delta_v = d . (p @ head)

so the mean m costs one dot product per token, and the rounding of a low-precision product scales
with the difference itself: a candidate close to the teacher is measured in bf16 to a few percent
down to a KL of 1e-5 (the usual log p - log q of two rounded logits drowns it in rounding noise).
Centred by m the sum is at least 1, so it cannot underflow, whatever common shift the logits have.

Shape suffixes: N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_BYTES = 32 << 20  # fp32 logits of one chunk: about what a last-level cache holds
# Below this, what probabilities too small for fp32 would add to the (centred) sum is negligible.
_SAFE_EXPONENT = 60.0


@dataclass(frozen=True)
class Teacher:
    """A teacher's distributions at N positions, kept for many comparisons.

    Attributes:
        hidden_NH: its hidden states before the head, fp32.
        p_NV: its next-token probabilities in the head's dtype.
        mass_N: sum of `p_NV` as rounded, fp32 (close to 1; dividing by it removes the rounding bias).
        mean_NH: p @ head / mass, the expected head row, fp32.
        log_p_target_N: log-probability of the true next token, fp32.
    """

    hidden_NH: Tensor
    p_NV: Tensor
    mass_N: Tensor
    mean_NH: Tensor
    log_p_target_N: Tensor

    @property
    def nll_N(self) -> Tensor:
        """The teacher's own negative log-likelihoods, nats."""
        return -self.log_p_target_N


def linear_nll(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target token, [N] fp32, nats.

    Defined by ``cross_entropy(hidden @ head.T, target, reduction="none")``. 2NHV FLOPs; memory for
    one chunk of logits.
    """
    losses = []
    for rows in _chunks(len(hidden_NH), head_VH.shape[0]):
        logits_nV = (hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        picked_n = logits_nV.gather(1, target_N[rows, None])[:, 0]
        losses.append(torch.logsumexp(logits_nV, -1) - picked_n)
    return torch.cat(losses)


def prepare_teacher(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Teacher:
    """The teacher side of `linear_kl`, computed once. Keeps N x V probabilities in the head's dtype."""
    probabilities = torch.empty(len(hidden_NH), head_VH.shape[0], dtype=head_VH.dtype)
    mean, mass, target = [], [], []
    head32_VH = head_VH.float()
    for rows in _chunks(len(hidden_NH), head_VH.shape[0]):
        logits_nV = (hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        log_p_nV = torch.log_softmax(logits_nV, -1)
        target.append(log_p_nV.gather(1, target_N[rows, None])[:, 0])
        probabilities[rows] = log_p_nV.exp_()
        p_nV = probabilities[rows].float()
        mass.append(p_nV.sum(-1))
        mean.append((p_nV @ head32_VH) / mass[-1][:, None])
    return Teacher(hidden_NH.float(), probabilities, torch.cat(mass), torch.cat(mean), torch.cat(target))


def linear_kl(
    hidden_NH: Tensor, teacher: Teacher, head_VH: Tensor, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(teacher || candidate) and the candidate's NLL per token, two [N] fp32 tensors, nats.

    Defined by ``p = softmax(teacher @ head.T); q = softmax(hidden @ head.T);
    kl = (p * (p.log() - q.log())).sum(-1); nll = -q.log()[target]``. 2NHV FLOPs, as for the NLL alone.
    """
    difference_NH = hidden_NH.float() - teacher.hidden_NH
    shift_N = (difference_NH * teacher.mean_NH).sum(-1)
    kls, nlls = [], []
    for rows in _chunks(len(hidden_NH), head_VH.shape[0]):
        # The subtraction also brings a bf16 product to fp32.
        delta_nV = (difference_NH[rows].to(head_VH.dtype) @ head_VH.T) - shift_N[rows, None]
        delta_target_n = delta_nV.gather(1, target_N[rows, None])[:, 0]
        kls.append(_log_mean_exp(delta_nV, teacher, rows, head_VH))
        nlls.append(kls[-1] - delta_target_n - teacher.log_p_target_N[rows])
    return torch.cat(kls), torch.cat(nlls)


def _log_mean_exp(delta_nV: Tensor, teacher: Teacher, rows: slice, head_VH: Tensor) -> Tensor:
    """log(sum_v p_v exp(delta_v)) for some of the teacher's positions, overwriting `delta_nV`."""
    if float(delta_nV.max()) > _SAFE_EXPONENT:  # rare: worth the product that gives log p itself
        logits_nV = (teacher.hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        return torch.logsumexp(delta_nV.add_(torch.log_softmax(logits_nV, -1)), -1)
    total_n = torch.linalg.vecdot(delta_nV.exp_(), teacher.p_NV[rows].float())
    return torch.log(total_n / teacher.mass_N[rows])


def _chunks(num_tokens: int, vocabulary: int) -> Iterator[slice]:
    rows = max(16, CHUNK_BYTES // (4 * vocabulary))
    return (slice(start, min(start + rows, num_tokens)) for start in range(0, num_tokens, rows))
