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

from secateur_kernels.arguments import (
    FLOATS,
    BadArgument,
    require_alike,
    require_input,
    require_matrix,
)
from secateur_kernels.backend import Backend, implementation, with_gradients

IGNORED = -100
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


@dataclass(frozen=True)
class LinearLoss:
    """Losses per token, fp32 [N], nats.

    Attributes:
        nll_N: negative log-likelihood of the target; exactly 0 where the target is ignored.
        lse_N: log-sum-exp of the logits.
        entropy_N: entropy of the next-token distribution.
        kl_N: KL(teacher || this), at least 0; None without a teacher.
    """

    nll_N: Tensor
    lse_N: Tensor
    entropy_N: Tensor
    kl_N: Tensor | None


@dataclass(frozen=True)
class TeacherStates:
    """A teacher by its hidden states alone: its logits are recomputed tile by tile where they are needed.

    Attributes:
        hidden_NH: its hidden states before the head.
        lse_N: log-sum-exp of its logits, fp32.
    """

    hidden_NH: Tensor
    lse_N: Tensor


def teacher_states(hidden_NH: Tensor, head_VH: Tensor, *, backend: Backend = "auto") -> TeacherStates:
    """What `linear_loss` needs of a teacher: its states, and their log-sum-exp found in one pass.

    Raises:
        BadArgument, BackendUnavailable: as `linear_loss`.
    """
    nobody_N = torch.full((len(hidden_NH),), IGNORED, device=hidden_NH.device)
    found = linear_loss(hidden_NH, head_VH, nobody_N, backend=backend)
    return TeacherStates(hidden_NH, found.lse_N)


def linear_loss(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_N: Tensor,
    *,
    teacher: TeacherStates | None = None,
    backend: Backend = "auto",
) -> LinearLoss:
    """NLL, log-sum-exp, entropy and KL against a teacher in one pass; in Triton no logits in memory at all.

    Defined by ``logits = hidden @ head.T; lse = logits.logsumexp(-1); nll = lse - logits[target];
    q = logits.softmax(-1); entropy = -(q * q.log()).sum(-1)``, and with a teacher ``p = softmax(teacher
    @ head.T); kl = (p * (p.log() - q.log())).sum(-1)``. 2NHV FLOPs, twice that with a teacher
    (`work.linear_loss_work`). No tokens give empty results.

    Args:
        hidden_NH: hidden states before the head, floating; multiplied in the head's dtype.
        head_VH: weight of the output head.
        target_N: int64, 0 to V - 1, or -100 to ignore a token. On a GPU it is not read beforehand: any
            other number counts as a logit of 0.
        teacher: from `teacher_states`, of as many tokens.
        backend: ``auto``, ``triton`` or ``torch``.

    Raises:
        BadArgument: shapes, dtypes or devices that do not fit, or (on a CPU) a target out of range.
        BackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    _check(hidden_NH, head_VH, target_N, teacher)
    backend = with_gradients(backend, hidden_NH, head_VH)
    run = implementation("linear_loss", backend, hidden_NH)
    ignored_N = target_N == IGNORED
    if hidden_NH.device.type == "cpu" and bool(
        ((target_N < 0) | (target_N >= len(head_VH)))[~ignored_N].any()
    ):
        raise BadArgument(
            "target_N", "a target out of range", f"allowed are 0 to {len(head_VH) - 1} and -100"
        )
    states = (None, None) if teacher is None else (teacher.hidden_NH, teacher.lse_N)
    lse_N, logit_N, mean_N, kl_N = run.losses(hidden_NH, head_VH, target_N, *states)
    nll_N = torch.where(ignored_N, 0.0, lse_N - logit_N)
    return LinearLoss(nll_N, lse_N, lse_N - mean_N, kl_N)


def _check(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor, teacher: TeacherStates | None) -> None:
    if hidden_NH.dim() != 2:
        raise BadArgument("hidden_NH", f"shape {list(hidden_NH.shape)}", "it must be [N, H]")
    require_input("hidden_NH", hidden_NH)
    if head_VH.dtype not in FLOATS:
        raise BadArgument("head_VH", str(head_VH.dtype), "float32, float16 and bfloat16 are allowed")
    require_matrix("head_VH", head_VH, None, hidden_NH.shape[1], head_VH)
    if not len(head_VH):
        raise BadArgument("head_VH", "no rows", "at least one is needed")
    if head_VH.device != hidden_NH.device:
        raise BadArgument("head_VH", f"a tensor on {head_VH.device}", f"the input is on {hidden_NH.device}")
    if target_N.shape != (len(hidden_NH),) or target_N.dtype != torch.int64:
        given = f"{str(target_N.dtype).removeprefix('torch.')} {list(target_N.shape)}"
        raise BadArgument("target_N", given, f"it must be int64 [{len(hidden_NH)}]")
    require_alike("target_N", target_N, target_N if target_N.device == hidden_NH.device else hidden_NH)
    if teacher is not None and teacher.hidden_NH.shape != hidden_NH.shape:
        given = f"states {list(teacher.hidden_NH.shape)}"
        raise BadArgument("teacher", given, f"they must be {list(hidden_NH.shape)}, as hidden_NH")


def linear_nll(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target token, [N] fp32, nats.

    Defined by ``cross_entropy(hidden @ head.T, target, reduction="none")``. 2NHV FLOPs; memory for
    one chunk of logits.
    """
    losses = []
    for rows in chunks(len(hidden_NH), head_VH.shape[0]):
        logits_nV = (hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        picked_n = logits_nV.gather(1, target_N[rows, None])[:, 0]
        losses.append(torch.logsumexp(logits_nV, -1) - picked_n)
    return torch.cat(losses)


def prepare_teacher(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Teacher:
    """The teacher side of `linear_kl`, computed once. Keeps N x V probabilities in the head's dtype."""
    probabilities = torch.empty(len(hidden_NH), head_VH.shape[0], dtype=head_VH.dtype, device=head_VH.device)
    mean, mass, target = [], [], []
    head32_VH = head_VH.float()
    for rows in chunks(len(hidden_NH), head_VH.shape[0]):
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
    for rows in chunks(len(hidden_NH), head_VH.shape[0]):
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


def chunks(num_tokens: int, vocabulary: int) -> Iterator[slice]:
    """Slices of tokens whose fp32 logits take about `CHUNK_BYTES`."""
    rows = max(16, CHUNK_BYTES // (4 * vocabulary))
    return (slice(start, min(start + rows, num_tokens)) for start in range(0, num_tokens, rows))
