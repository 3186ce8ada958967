"""Linear layer and loss in torch: logits exist for one tile of tokens and ids at a time.

On a CPU a tile stays in the cache from its product to its last sum. Exponentials are powers of two:
four times as fast as `exp` there, and as exact.

Shape suffixes: N tokens, n tokens of a tile, H hidden, V vocabulary, v ids of a tile, J tiles, K ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from secateur_kernels.linear_loss import LossParts, Teacher

# 2 MB in fp32: as fast as any other on 2 cores with 1 MB of cache each (1024 x 512 is 2 % slower).
TILE_TOKENS, TILE_IDS = 256, 2048
# Where each tile is a launch, few large ones.
DEVICE_TILE_TOKENS, DEVICE_TILE_IDS = 4096, 16384
_LOG2_E = math.log2(math.e)
# Below this, what probabilities too small for fp32 would add to the (centred) sum is negligible.
_SAFE_EXPONENT = 60.0


class _LogSum(NamedTuple):
    """log(sum exp) of a row as its maximum and the sum of what is relative to it, fp32 [n] or [n, J]."""

    peak: Tensor
    total: Tensor

    @property
    def log(self) -> Tensor:
        return self.peak + self.total.log()


def losses(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_N: Tensor,
    *,
    entropy: bool = False,
    teacher_NH: Tensor | None = None,
    teacher_lse_N: Tensor | None = None,
    ids_NK: Tensor | None = None,
) -> LossParts:
    """See `secateur_kernels.linear_loss`; a target out of the vocabulary is nobody's."""
    out = hidden_NH.new_empty(3, len(hidden_NH), dtype=torch.float32)
    wanted_NK = target_N[:, None] if ids_NK is None else torch.cat([target_N[:, None], ids_NK], 1)
    logit_NK = out.new_empty(wanted_NK.shape)
    log_q_NK = None if ids_NK is None else out.new_empty(ids_NK.shape)
    for rows in _tokens(hidden_NH):
        if teacher_NH is None or teacher_lse_N is None:
            sums, mean_n, logit_NK[rows] = _sums(hidden_NH[rows], head_VH, entropy, wanted_NK[rows])
        else:
            states = (hidden_NH[rows], teacher_NH[rows], teacher_lse_N[rows])
            sums, mean_n, logit_NK[rows], out[2, rows] = _sums_and_kl(
                *states, head_VH, entropy, wanted_NK[rows]
            )
        out[0, rows] = sums.log
        if mean_n is not None:
            out[1, rows] = mean_n
        if log_q_NK is not None:
            log_q_NK[rows] = (logit_NK[rows, 1:] - sums.peak[:, None]) - sums.total.log()[:, None]
    return LossParts(
        out[0],
        logit_NK[:, 0],
        out[1] if entropy else None,
        None if teacher_NH is None else out[2],
        log_q_NK,
    )


def _sums(
    hidden_nH: Tensor, head_VH: Tensor, entropy: bool, wanted_nK: Tensor
) -> tuple[_LogSum, Tensor | None, Tensor]:
    """Of the logits: their log-sum-exp, their mean under the softmax if asked for, and the wanted ones."""
    parts, means = [], []
    logit_nK = torch.zeros(wanted_nK.shape, device=wanted_nK.device)
    for tile in _ids(head_VH):
        logits_nv = _logits(hidden_nH, head_VH[tile])
        power_nv, part = _powers(logits_nv)
        parts.append(part)
        logit_nK = _picked(logits_nv, tile, wanted_nK, logit_nK)
        if entropy:
            means.append(torch.linalg.vecdot(power_nv, logits_nv.float()) / part.total)
    return *_merged(parts, means), logit_nK


def _sums_and_kl(
    hidden_nH: Tensor,
    teacher_nH: Tensor,
    teacher_lse_n: Tensor,
    head_VH: Tensor,
    entropy: bool,
    wanted_nK: Tensor,
) -> tuple[_LogSum, Tensor | None, Tensor, Tensor]:
    """As `_sums`, and the KL from the difference of the states."""
    difference_nH = hidden_nH.float() - teacher_nH.float()
    before, after, means, moves = [], [], [], []
    logit_nK = torch.zeros(wanted_nK.shape, device=wanted_nK.device)
    for tile in _ids(head_VH):
        teacher_nv = _logits(teacher_nH, head_VH[tile]).float()
        delta_nv = _logits(difference_nH, head_VH[tile])
        log_p_nv = teacher_nv - teacher_lse_n[:, None]
        p_nv, mass = _powers(log_p_nv)
        before.append(mass)
        moves.append(torch.linalg.vecdot(p_nv, delta_nv.float()) * mass.peak.exp())
        power_nv, part = _powers(log_p_nv + delta_nv)
        after.append(part)
        logits_nv = teacher_nv + delta_nv
        logit_nK = _picked(logits_nv, tile, wanted_nK, logit_nK)
        if entropy:
            means.append(torch.linalg.vecdot(power_nv, logits_nv) / part.total)
    (mass, _), (moved, mean_n) = _merged(before, []), _merged(after, means)
    kl_n = (moved.log - mass.log - torch.stack(moves).sum(0)).clamp(min=0)
    return _LogSum(moved.peak + teacher_lse_n, moved.total), mean_n, logit_nK, kl_n


def _powers(logits_nv: Tensor) -> tuple[Tensor, _LogSum]:
    """exp(logits - their maximum), fp32, and what they sum to."""
    logits_nv = logits_nv.float()  # first: in bf16 a maximum takes three times as long on a CPU
    peak_n = logits_nv.detach().amax(1)
    power_nv = ((logits_nv - peak_n[:, None]) * _LOG2_E).exp2()
    return power_nv, _LogSum(peak_n, power_nv.sum(1))


def _picked(logits_nv: Tensor, tile: slice, wanted_nK: Tensor, logit_nK: Tensor) -> Tensor:
    """The wanted logits, those of this tile filled in."""
    here_nK = (wanted_nK >= tile.start) & (wanted_nK < tile.stop)
    place_nK = (wanted_nK.long() - tile.start).clamp(0, logits_nv.shape[1] - 1)
    return torch.where(here_nK, logits_nv.gather(1, place_nK).float(), logit_nK)


def _merged(parts: list[_LogSum], means: list[Tensor]) -> tuple[_LogSum, Tensor | None]:
    """One log-sum-exp, and one mean under the softmax, from those of the tiles."""
    peak_nJ = torch.stack([part.peak for part in parts], 1)
    peak_n = peak_nJ.amax(1)
    total_nJ = torch.stack([part.total for part in parts], 1) * (peak_nJ - peak_n[:, None]).exp()
    total_n = total_nJ.sum(1)
    mean_n = torch.linalg.vecdot(total_nJ, torch.stack(means, 1)) / total_n if means else None
    return _LogSum(peak_n, total_n), mean_n


def top_k_ids(hidden_NH: Tensor, head_VH: Tensor, k: int) -> Tensor:
    """Ids of the k largest logits of each token, ascending, int32 [N, k]."""
    ids_NK = torch.empty(len(hidden_NH), k, dtype=torch.int32, device=hidden_NH.device)
    for rows in _tokens(hidden_NH):
        logits_nV = _logits(hidden_NH[rows], head_VH)
        ids_NK[rows] = logits_nV.topk(k, sorted=False).indices.sort().values.int()
    return ids_NK


def prepare_teacher(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Teacher:
    """See `secateur_kernels.prepare_teacher`."""
    tokens, device = len(hidden_NH), hidden_NH.device
    p_NV = torch.empty(tokens, len(head_VH), dtype=head_VH.dtype, device=device)
    log_p_target_N, mass_N = (torch.empty(tokens, dtype=torch.float32, device=device) for _ in range(2))
    mean_NH = torch.empty(hidden_NH.shape, dtype=torch.float32, device=device)
    head32_VH = head_VH.float()
    for rows in _tokens(hidden_NH):
        # In fp32, once for many candidates: what they differ by is found without rounding logits too.
        log_p_nV = torch.log_softmax(hidden_NH[rows].to(head_VH.dtype).float() @ head32_VH.T, -1)
        log_p_target_N[rows] = log_p_nV.gather(1, target_N[rows, None])[:, 0]
        p_NV[rows] = log_p_nV.exp_()
        mass_N[rows] = _mass(p_NV[rows], head_VH)
        mean_NH[rows] = (p_NV[rows].float() @ head32_VH) / mass_N[rows, None]
    return Teacher(hidden_NH.float(), p_NV, mass_N, mean_NH, log_p_target_N)


def linear_kl(
    hidden_NH: Tensor, teacher: Teacher, head_VH: Tensor, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    """See `secateur_kernels.linear_kl`."""
    if hidden_NH.device.type != "cpu":
        return kl_by_states(hidden_NH, teacher, head_VH, target_N)
    difference_NH = hidden_NH.float() - teacher.hidden_NH
    shift_N = (difference_NH * teacher.mean_NH).sum(-1)
    kl_N = torch.empty_like(shift_N)
    for rows in _tokens(hidden_NH):
        power_n, highest_n = _expected_power(difference_NH[rows], shift_N[rows], teacher.p_NV[rows], head_VH)
        kl_N[rows] = torch.log(power_n / teacher.mass_N[rows])
        far = torch.nonzero(highest_n > _SAFE_EXPONENT)[:, 0] + rows.start
        if len(far):  # rare: worth the product that gives log p itself
            kl_N[far] = _log_mean_exp(difference_NH[far], shift_N[far], teacher.hidden_NH[far], head_VH)
    # One id for each token is too few to be worth rounding.
    moved_N = torch.linalg.vecdot(difference_NH, head_VH[target_N].float()) - shift_N
    return kl_N, kl_N - moved_N - teacher.log_p_target_N


def kl_by_states(
    hidden_NH: Tensor, teacher: Teacher, head_VH: Tensor, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    """`linear_kl` without the probabilities kept, and so without asking whether any vanished.

    The answer would be on the device, and the host would have to wait for it.
    """
    rows_NH = head_VH[target_N].float()
    logit_N = torch.linalg.vecdot(teacher.hidden_NH.to(head_VH.dtype).float(), rows_NH)
    lse_N = logit_N - teacher.log_p_target_N
    parts = losses(hidden_NH, head_VH, target_N, teacher_NH=teacher.hidden_NH, teacher_lse_N=lse_N)
    assert parts.kl_N is not None
    return parts.kl_N, parts.lse_N - parts.logit_N


def _expected_power(
    difference_nH: Tensor, shift_n: Tensor, p_nV: Tensor, head_VH: Tensor
) -> tuple[Tensor, Tensor]:
    """sum_v p_v exp(delta_v - shift) by row, and the largest of the exponents."""
    difference_nH = difference_nH.to(head_VH.dtype)
    less_n1 = shift_n[:, None] * -_LOG2_E
    totals, peaks = [], []
    for tile in _ids(head_VH):
        delta_nv = _logits(difference_nH, head_VH[tile])
        # The addition also brings a bf16 product to fp32, whose maximum takes a third of the time.
        exponent_nv = torch.add(less_n1, delta_nv, alpha=_LOG2_E)
        peaks.append(exponent_nv.amax(1))
        totals.append(torch.linalg.vecdot(exponent_nv.exp2_(), p_nV[:, tile].float()))
    return torch.stack(totals).sum(0), torch.stack(peaks).amax(0) / _LOG2_E


def _mass(p_nV: Tensor, head_VH: Tensor) -> Tensor:
    """What the rows sum to, in the order of `_expected_power`: a difference of nothing is exactly that."""
    parts = [p_nV[:, tile].float() for tile in _ids(head_VH)]
    return torch.stack([torch.linalg.vecdot(torch.ones_like(part), part) for part in parts]).sum(0)


def _log_mean_exp(difference_nH: Tensor, shift_n: Tensor, teacher_nH: Tensor, head_VH: Tensor) -> Tensor:
    """log(sum_v p_v exp(delta_v - shift)) without p itself, which may have vanished."""
    delta_nV = _logits(difference_nH, head_VH) - shift_n[:, None]
    return torch.logsumexp(delta_nV + torch.log_softmax(_logits(teacher_nH, head_VH).float(), -1), -1)


def _logits(hidden_nH: Tensor, head_vH: Tensor) -> Tensor:
    return hidden_nH.to(head_vH.dtype) @ head_vH.T


def _tokens(hidden_NH: Tensor) -> Iterator[slice]:
    size = TILE_TOKENS if hidden_NH.device.type == "cpu" else DEVICE_TILE_TOKENS
    return (slice(start, start + size) for start in range(0, len(hidden_NH), size))


def _ids(head_VH: Tensor) -> Iterator[slice]:
    size = TILE_IDS if head_VH.device.type == "cpu" else DEVICE_TILE_IDS
    return (slice(start, start + size) for start in range(0, len(head_VH), size))
