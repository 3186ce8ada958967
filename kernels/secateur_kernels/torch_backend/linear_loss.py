"""Linear layer and loss in torch: logits exist for a chunk of tokens at a time.

Shape suffixes: N tokens, n tokens of a chunk, H hidden, V vocabulary, K ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur_kernels.linear_loss import Parts, Teacher, chunks

# Below this, what probabilities too small for fp32 would add to the (centred) sum is negligible.
_SAFE_EXPONENT = 60.0


def losses(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_N: Tensor,
    *,
    entropy: bool = False,
    teacher_NH: Tensor | None = None,
    teacher_lse_N: Tensor | None = None,
    ids_NK: Tensor | None = None,
) -> Parts:
    """See `secateur_kernels.linear_loss`; a target out of the vocabulary is nobody's."""
    out = hidden_NH.new_empty(4, len(hidden_NH), dtype=torch.float32)
    log_q_NK = None if ids_NK is None else out.new_empty(ids_NK.shape)
    for rows in chunks(len(hidden_NH), len(head_VH)):
        if teacher_NH is None or teacher_lse_N is None:
            logits_nV = (hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        else:
            difference_nH = hidden_NH[rows].float() - teacher_NH[rows].float()
            delta_nV = (difference_nH.to(head_VH.dtype) @ head_VH.T).float()
            teacher_nV = (teacher_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
            log_p_nV = teacher_nV - teacher_lse_N[rows, None]
            moved_n = torch.linalg.vecdot(log_p_nV.exp(), delta_nV)
            lse_n = torch.logsumexp(log_p_nV + delta_nV, 1) - torch.logsumexp(log_p_nV, 1)
            out[3, rows] = (lse_n - moved_n).clamp(min=0)
            logits_nV = teacher_nV + delta_nV
        out[0, rows] = torch.logsumexp(logits_nV, 1)
        out[1, rows] = logits_nV.gather(1, target_N[rows, None].clamp(min=0))[:, 0]
        if entropy:
            out[2, rows] = torch.linalg.vecdot(torch.softmax(logits_nV, 1), logits_nV)
        if ids_NK is not None and log_q_NK is not None:
            log_q_NK[rows] = torch.log_softmax(logits_nV, 1).gather(1, ids_NK[rows].long())
    return Parts(
        out[0], out[1], out[2] if entropy else None, None if teacher_NH is None else out[3], log_q_NK
    )


def likeliest(hidden_NH: Tensor, head_VH: Tensor, k: int) -> Tensor:
    """Ids of the k largest logits of each token, ascending, int32 [N, k]."""
    ids_NK = torch.empty(len(hidden_NH), k, dtype=torch.int32, device=hidden_NH.device)
    for rows in chunks(len(hidden_NH), len(head_VH)):
        logits_nV = hidden_NH[rows].to(head_VH.dtype) @ head_VH.T
        ids_NK[rows] = logits_nV.topk(k, sorted=False).indices.sort().values.int()
    return ids_NK


def prepare_teacher(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Teacher:
    """See `secateur_kernels.prepare_teacher`."""
    tokens, device = len(hidden_NH), hidden_NH.device
    p_NV = torch.empty(tokens, len(head_VH), dtype=head_VH.dtype, device=device)
    mass_N, target_log_p_N = (torch.empty(tokens, dtype=torch.float32, device=device) for _ in range(2))
    mean_NH = torch.empty(hidden_NH.shape, dtype=torch.float32, device=device)
    head32_VH = head_VH.float()
    for rows in chunks(tokens, len(head_VH)):
        logits_nV = (hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        log_p_nV = torch.log_softmax(logits_nV, -1)
        target_log_p_N[rows] = log_p_nV.gather(1, target_N[rows, None])[:, 0]
        p_NV[rows] = log_p_nV.exp_()
        p_nV = p_NV[rows].float()
        mass_N[rows] = p_nV.sum(-1)
        mean_NH[rows] = (p_nV @ head32_VH) / mass_N[rows, None]
    return Teacher(hidden_NH.float(), p_NV, mass_N, mean_NH, target_log_p_N)


def linear_kl(
    hidden_NH: Tensor, teacher: Teacher, head_VH: Tensor, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    """See `secateur_kernels.linear_kl`."""
    difference_NH = hidden_NH.float() - teacher.hidden_NH
    shift_N = (difference_NH * teacher.mean_NH).sum(-1)
    kl_N, nll_N = torch.empty_like(shift_N), torch.empty_like(shift_N)
    for rows in chunks(len(hidden_NH), len(head_VH)):
        # The subtraction also brings a bf16 product to fp32.
        delta_nV = (difference_NH[rows].to(head_VH.dtype) @ head_VH.T) - shift_N[rows, None]
        delta_target_n = delta_nV.gather(1, target_N[rows, None])[:, 0]
        kl_n = _log_mean_exp(delta_nV, teacher, rows, head_VH)
        kl_N[rows] = kl_n
        nll_N[rows] = kl_n - delta_target_n - teacher.log_p_target_N[rows]
    return kl_N, nll_N


def _log_mean_exp(delta_nV: Tensor, teacher: Teacher, rows: slice, head_VH: Tensor) -> Tensor:
    """log(sum_v p_v exp(delta_v)) for some of the teacher's positions, overwriting `delta_nV`."""
    if float(delta_nV.max()) > _SAFE_EXPONENT:  # rare: worth the product that gives log p itself
        logits_nV = (teacher.hidden_NH[rows].to(head_VH.dtype) @ head_VH.T).float()
        return torch.logsumexp(delta_nV.add_(torch.log_softmax(logits_nV, -1)), -1)
    total_n = torch.linalg.vecdot(delta_nV.exp_(), teacher.p_NV[rows].float())
    return torch.log(total_n / teacher.mass_N[rows])
