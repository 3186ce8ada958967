"""Per-token losses straight from hidden states and head weight; logits exist only tile by tile.

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

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from secateur_kernels.arguments import (
    FLOATS,
    KernelArgumentError,
    require_input,
    require_matrix,
)
from secateur_kernels.backend import Backend, implementation, with_gradients

IGNORED = -100
# Rounding of 1 - (a sum near 1) in fp32. Added to the candidate's tail it keeps a bound a bound.
_TAIL_SLACK = 2.0**-22


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
        entropy_N: entropy of the next-token distribution; None unless asked for.
        kl_N: KL(teacher || this), at least 0, exactly 0 where the target is ignored; None without a teacher.
    """

    nll_N: Tensor
    lse_N: Tensor
    entropy_N: Tensor | None
    kl_N: Tensor | None


class LossParts(NamedTuple):
    """What an implementation finds, fp32: [N], and [N, K] for `log_q_NK`; None where not asked for.

    Attributes:
        lse_N: log-sum-exp of the logits.
        logit_N: logit of the target.
        mean_N: mean logit under the softmax: log-sum-exp less entropy.
        kl_N: KL against the teacher's states.
        log_q_NK: log-probabilities of the ids asked for. Not rounded as a difference from `lse_N` would be,
            so that what the K ids leave over can be told from rounding.
    """

    lse_N: Tensor
    logit_N: Tensor
    mean_N: Tensor | None
    kl_N: Tensor | None
    log_q_NK: Tensor | None


@dataclass(frozen=True)
class TeacherStates:
    """A teacher by its hidden states alone: its logits are recomputed tile by tile where they are needed.

    Attributes:
        hidden_NH: its hidden states before the head.
        lse_N: log-sum-exp of its logits, fp32.
        nll_N: its own negative log-likelihoods, fp32, nats; None where it was made without targets.
    """

    hidden_NH: Tensor
    lse_N: Tensor
    nll_N: Tensor | None = None


@dataclass(frozen=True)
class TeacherTopK:
    """A teacher by its k likeliest ids at N positions: 8k bytes each, where `Teacher` keeps V probabilities.

    What it puts on all other ids is one bucket, the tail. A KL over these k + 1 outcomes is a lower
    bound of the KL over V, since merging outcomes never adds to a KL; loose where the mass is small.

    Attributes:
        ids_NK: the ids, int32, ascending in each row.
        log_p_NK: their log-probabilities, fp32, of the softmax over all V.
    """

    ids_NK: Tensor
    log_p_NK: Tensor

    @property
    def mass_N(self) -> Tensor:
        """Probability that the k ids hold together, fp32; the mean should be near 1 for a tight bound."""
        return self.log_p_NK.exp().sum(-1)


def teacher_states(
    hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor | None = None, *, backend: Backend = "auto"
) -> TeacherStates:
    """What `linear_loss` and `linear_kl` need of a teacher: its states, and their log-sum-exp, in one pass.

    With the true next tokens also its own losses, at no further cost. The states are kept, not copied.

    Raises:
        KernelArgumentError, KernelBackendUnavailable: as `linear_loss`.
    """
    targets = _no_tokens(hidden_NH) if target_N is None else target_N
    losses = linear_loss(hidden_NH, head_VH, targets, backend=backend)
    return TeacherStates(hidden_NH, losses.lse_N, None if target_N is None else losses.nll_N)


def teacher_top_k(hidden_NH: Tensor, head_VH: Tensor, k: int, *, backend: Backend = "auto") -> TeacherTopK:
    """A teacher for `linear_loss` by its k likeliest ids.

    Defined by ``log_p, ids = (hidden @ head.T).log_softmax(-1).topk(k)``, sorted by id. A product in
    torch picks the ids; their log-probabilities come from the pass that `linear_loss` makes, so that
    on the same backend the KL of a teacher with itself is 0. 4NHV FLOPs, once per teacher.

    The (k+1)-way KL against it is a lower bound of the full KL (see `TeacherTopK`).

    Args:
        hidden_NH, head_VH: as for `linear_loss`.
        k: 1 to V.
        backend: of that pass.

    Raises:
        KernelArgumentError, KernelBackendUnavailable: as `linear_loss`; k out of range.
    """
    target_N = _no_tokens(hidden_NH)
    _check(hidden_NH, head_VH, target_N, None)
    if type(k) is not int or not 1 <= k <= len(head_VH):
        raise KernelArgumentError("k", k, f"allowed are 1 to {len(head_VH)} ids")
    backend = with_gradients(backend, hidden_NH, head_VH)
    run = implementation("linear_loss", backend, hidden_NH)
    ids_NK = implementation("linear_loss", "torch", hidden_NH).top_k_ids(hidden_NH, head_VH, k)
    parts: LossParts = run.losses(hidden_NH, head_VH, target_N, ids_NK=ids_NK)
    assert parts.log_q_NK is not None
    return TeacherTopK(ids_NK, parts.log_q_NK)


def linear_loss(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_N: Tensor,
    *,
    entropy: bool = False,
    teacher: TeacherStates | TeacherTopK | None = None,
    backend: Backend = "auto",
    ignore_index: int = IGNORED,
) -> LinearLoss:
    """NLL, log-sum-exp, entropy and KL against a teacher in one pass; in Triton no logits in memory at all.

    Defined by ``logits = hidden @ head.T; lse = logits.logsumexp(-1); nll = lse - logits[target];
    q = logits.softmax(-1); entropy = -(q * q.log()).sum(-1)``, and with a teacher ``p = softmax(teacher
    @ head.T); kl = (p * (p.log() - q.log())).sum(-1)``, where a `TeacherTopK` has p and q over k + 1
    outcomes: its ids, and all others together. 2NHV FLOPs, twice that with `TeacherStates`
    (`work.linear_loss_work`). No tokens give empty results.

    With `TeacherStates` the KL comes from the difference of the hidden states (see the module) and keeps
    its digits however small it is. With `TeacherTopK` it comes from the difference of log-probabilities:
    its error is that of the logits, and a tail of the candidate below 2e-7 counts as that.

    Args:
        hidden_NH: hidden states before the head, floating; multiplied in the head's dtype.
        head_VH: weight of the output head.
        target_N: int64, 0 to V - 1, or `ignore_index`. On a GPU it is not read beforehand: the kernel
            takes any other number for an id whose logit is 0, torch stops with an assertion of its own.
        entropy: whether to find the entropy too.
        teacher: from `teacher_states` or `teacher_top_k`, of as many tokens.
        backend: ``auto``, ``triton`` or ``torch``.
        ignore_index: target of the tokens whose NLL and KL are 0.

    Raises:
        KernelArgumentError: shapes, dtypes or devices that do not fit; on a CPU, a target or id out of range.
        KernelBackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    _check(hidden_NH, head_VH, target_N, teacher)
    states = teacher if isinstance(teacher, TeacherStates) else None
    top = teacher if isinstance(teacher, TeacherTopK) else None
    backend = with_gradients(backend, hidden_NH, head_VH, None if states is None else states.hidden_NH)
    run = implementation("linear_loss", backend, hidden_NH)
    ignored_N = target_N == ignore_index
    picked_N = target_N.masked_fill(ignored_N, 0).contiguous()
    _check_ids("target_N", picked_N, len(head_VH), f" and {ignore_index}")
    if top is not None:
        _check_ids("teacher", top.ids_NK, len(head_VH))
    parts: LossParts = run.losses(
        hidden_NH,
        head_VH,
        picked_N,
        entropy=entropy,
        teacher_NH=None if states is None else states.hidden_NH,
        teacher_lse_N=None if states is None else states.lse_N,
        ids_NK=None if top is None else top.ids_NK,
    )
    kl_N = parts.kl_N
    if top is not None and parts.log_q_NK is not None:
        kl_N = _coarse_kl(top.log_p_NK, parts.log_q_NK, len(head_VH))
    return LinearLoss(
        nll_N=(parts.lse_N - parts.logit_N).masked_fill(ignored_N, 0.0),
        lse_N=parts.lse_N,
        entropy_N=None if parts.mean_N is None else parts.lse_N - parts.mean_N,
        kl_N=None if kl_N is None else kl_N.masked_fill(ignored_N, 0.0),
    )


def _no_tokens(hidden_NH: Tensor) -> Tensor:
    return torch.full((len(hidden_NH),), IGNORED, device=hidden_NH.device)


def _coarse_kl(log_p_NK: Tensor, log_q_NK: Tensor, vocabulary: int) -> Tensor:
    """KL over the K ids and, unless they are the whole vocabulary, one outcome for all others; fp32 [N]."""
    kl_N = (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(-1)
    if log_p_NK.shape[1] < vocabulary:
        p_N, q_N = _tail(log_p_NK), _tail(log_q_NK) + _TAIL_SLACK
        kl_N = kl_N + torch.special.xlogy(p_N, p_N / q_N)
    return kl_N.clamp(min=0)


def _tail(log_p_NK: Tensor) -> Tensor:
    """1 - sum exp, [N]; where rounding brings the sum beyond 1, nothing."""
    return -torch.expm1(torch.logsumexp(log_p_NK, -1).clamp(max=0))


def _check(
    hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor, teacher: TeacherStates | TeacherTopK | None
) -> None:
    if hidden_NH.dim() != 2:
        raise KernelArgumentError("hidden_NH", f"shape {list(hidden_NH.shape)}", "it must be [N, H]")
    require_input("hidden_NH", hidden_NH)
    if head_VH.dtype not in FLOATS:
        raise KernelArgumentError("head_VH", str(head_VH.dtype), "float32, float16 and bfloat16 are allowed")
    require_matrix("head_VH", head_VH, None, hidden_NH.shape[1], head_VH)
    if not len(head_VH):
        raise KernelArgumentError("head_VH", "no rows", "at least one is needed")
    if head_VH.device != hidden_NH.device:
        raise KernelArgumentError(
            "head_VH", f"a tensor on {head_VH.device}", f"the input is on {hidden_NH.device}"
        )
    tokens = len(hidden_NH)
    _require("target_N", "", target_N, (tokens,), torch.int64, hidden_NH.device)
    if isinstance(teacher, TeacherStates):
        if teacher.hidden_NH.shape != hidden_NH.shape:
            got = f"states {list(teacher.hidden_NH.shape)}"
            raise KernelArgumentError("teacher", got, f"they must be {list(hidden_NH.shape)}, as hidden_NH")
        require_input("teacher", teacher.hidden_NH)
        _require("teacher", "states ", teacher.hidden_NH, hidden_NH.shape, None, hidden_NH.device)
        _require("teacher", "lse ", teacher.lse_N, (tokens,), torch.float32, hidden_NH.device)
    elif isinstance(teacher, TeacherTopK):
        k = teacher.ids_NK.shape[-1] if teacher.ids_NK.dim() else 0
        if not 1 <= k <= len(head_VH):
            raise KernelArgumentError("teacher", f"{k} ids per token", f"allowed are 1 to {len(head_VH)}")
        _require("teacher", "ids ", teacher.ids_NK, (tokens, k), torch.int32, hidden_NH.device)
        _require("teacher", "log_p ", teacher.log_p_NK, (tokens, k), torch.float32, hidden_NH.device)
    elif teacher is not None:
        raise KernelArgumentError(
            "teacher", f"a {type(teacher).__name__}", "TeacherStates, TeacherTopK or None is allowed"
        )


def _require(
    name: str,
    part: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    if tensor.shape != shape or dtype not in (None, tensor.dtype):
        got = f"{part}{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        expected = str(dtype or tensor.dtype).removeprefix("torch.")
        raise KernelArgumentError(name, got, f"it must be {expected} {list(shape)}")
    if tensor.device != device:
        raise KernelArgumentError(name, f"{part}a tensor on {tensor.device}", f"the input is on {device}")


def _check_ids(name: str, ids: Tensor, vocabulary: int, also: str = "") -> None:
    """Check ids where that needs no wait for a device."""
    if ids.device.type == "cpu" and bool(((ids < 0) | (ids >= vocabulary)).any()):
        raise KernelArgumentError(name, "an id out of range", f"allowed are 0 to {vocabulary - 1}{also}")


def linear_nll(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Negative log-likelihood of each target token, [N] fp32, nats.

    Defined by ``cross_entropy(hidden @ head.T, target, reduction="none")``. 2NHV FLOPs; in torch memory
    for one tile of logits, in Triton none.

    Raises:
        KernelArgumentError, KernelBackendUnavailable: as `linear_loss`.
    """
    return linear_loss(hidden_NH, head_VH, target_N, backend=backend).nll_N


def prepare_teacher(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Teacher:
    """The teacher side of `linear_kl`, computed once. Keeps N x V probabilities in the head's dtype."""
    run = implementation("linear_loss", "torch", hidden_NH)
    teacher: Teacher = run.prepare_teacher(hidden_NH, head_VH, target_N)
    return teacher


def linear_kl(
    hidden_NH: Tensor,
    teacher: Teacher | TeacherStates,
    head_VH: Tensor,
    target_N: Tensor,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """KL(teacher || candidate) and the candidate's NLL per token, two [N] fp32 tensors, nats.

    Defined by ``p = softmax(teacher @ head.T); q = softmax(hidden @ head.T);
    kl = (p * (p.log() - q.log())).sum(-1); nll = -q.log()[target]``.

    With `TeacherStates` this is `linear_loss`: 4NHV FLOPs, N x H numbers kept, in Triton on a GPU, and the
    host waits for nothing. With a `Teacher` it is always torch and reads N x V probabilities: on a CPU
    2NHV FLOPs, as for the NLL alone; on a device no better than `TeacherStates`, but for the memory.

    Args:
        hidden_NH: hidden states before the head, floating.
        teacher: from `teacher_states`, or `prepare_teacher`, of as many tokens.
        head_VH: weight of the output head.
        target_N: int64, 0 to V - 1.
        backend: for `TeacherStates`.

    Raises:
        KernelArgumentError, KernelBackendUnavailable: as `linear_loss`, with `TeacherStates`.
    """
    if isinstance(teacher, TeacherStates):
        found = linear_loss(hidden_NH, head_VH, target_N, teacher=teacher, backend=backend)
        assert found.kl_N is not None
        return found.kl_N, found.nll_N
    run = implementation("linear_loss", "torch", hidden_NH)
    losses: tuple[Tensor, Tensor] = run.linear_kl(hidden_NH, teacher, head_VH, target_N)
    return losses
