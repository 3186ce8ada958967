"""Linear layer and loss in torch: logits exist for a chunk of tokens at a time.

Shape suffixes: N tokens, n tokens of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur_kernels.linear_loss import chunks


def losses(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_N: Tensor,
    teacher_NH: Tensor | None,
    teacher_lse_N: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Log-sum-exp, logit of the target, mean logit under q, and KL where there is a teacher; fp32 [N]."""
    out = hidden_NH.new_empty(4, len(hidden_NH), dtype=torch.float32)
    for rows in chunks(len(hidden_NH), len(head_VH)):
        picks_n1 = target_N[rows, None].clamp(min=0)
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
        out[1, rows] = logits_nV.gather(1, picks_n1)[:, 0]
        out[2, rows] = torch.linalg.vecdot(torch.softmax(logits_nV, 1), logits_nV)
    return out[0], out[1], out[2], None if teacher_NH is None else out[3]
