"""Linear layer and loss in one pass over the vocabulary: logits live in registers, tile by tile.

One program takes a tile of tokens through one split of the vocabulary with an online log-sum-exp; a
second kernel merges the splits in their order. Tiles and splits do not depend on the number of
tokens and nothing is atomic, so a token's losses are the same to the bit in any batch.

Against a teacher, both products share the head's tile: t = teacher @ head.T and delta = (hidden -
teacher) @ head.T. With log p = t - lse_t the candidate's logits are, up to lse_t, log p + delta, and
KL = log sum p exp(delta) - sum p delta: rounding scales with the difference itself.

Logits at given ids (a teacher's likeliest) are taken out of the tile that has them: they are the very
numbers that the sum is made of, and no head row is read again for them.

Shape suffixes: N tokens, H hidden, V vocabulary, S splits, K ids.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur_kernels.linear_loss import LossParts
from secateur_kernels.triton_backend.metadata import Arguments, metadata
from secateur_kernels.triton_backend.product import rows_dot, rows_dot_two_left
from secateur_kernels.triton_backend.tile import Tile, tile_for
from secateur_kernels.work import Work, linear_loss_work

TILES_PER_SPLIT = 16
# Ids looked up at a time; a power of two. As ids ascend, few such groups have any in one tile, and the
# others are skipped: taking numbers out of a tile is shuffles in proportion to its columns (not yet timed).
MAX_PICKS = 16
# Sums that a split leaves per token: maximum and sum of its logits, the target's logit, sum q*l (left
# unwritten without entropy); against a teacher also maximum and sum of log p, and sum p*delta.
_PLAIN, _AGAINST = 4, 7


def _work(arguments: Arguments, itemsize: int) -> Work:
    against = arguments["teacher"] is not None
    return linear_loss_work(
        arguments["N"], arguments["H"], arguments["V"], itemsize, teacher_hidden=against, top_k=arguments["K"]
    )


@triton.jit(do_not_specialize=["N", "S"], launch_metadata=metadata("linear_loss", _work, "head"))
def _partial_losses(
    hidden,  # [N, H]; against a teacher: hidden - teacher
    hidden_per_token,
    teacher,  # [N, H] or None
    teacher_per_token,
    shift,  # the teacher's log-sum-exp, fp32 [N], or None
    head,  # [V, H]
    head_per_row,
    target,  # int64 [N]
    ids,  # int32 [N, K] or None
    at_ids,  # fp32 [N, K]: the logits there, or None
    partial,  # fp32 [4 or 7, S, N]
    N,
    S,
    V,
    H,
    K,
    ENTROPY: tl.constexpr,
    PICKS: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    row_tiles = tl.cdiv(N, ROWS)
    program = tl.program_id(0)
    split = program // row_tiles
    n = (program % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = n < N
    target_id = tl.load(target + n, mask=in_rows, other=-1)
    hidden_ptrs = hidden + n[:, None] * hidden_per_token
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    picked = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS,), tl.float32)
    if teacher is not None:
        offset = tl.load(shift + n, mask=in_rows, other=0.0)[:, None]
        left_teacher = teacher + n[:, None] * teacher_per_token
        p_top = tl.full((ROWS,), float("-inf"), tl.float32)
        p_total = tl.zeros((ROWS,), tl.float32)
        moved = tl.zeros((ROWS,), tl.float32)
    last = tl.minimum((split + 1) * TILES, tl.cdiv(V, COLUMNS))
    for tile in range(split * TILES, last):
        v = tile * COLUMNS + tl.arange(0, COLUMNS)
        right = head + v[:, None].to(tl.int64) * head_per_row
        in_vocabulary = (v < V)[None, :]
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        if teacher is not None:
            other = tl.zeros((ROWS, COLUMNS), tl.float32)
            log_p, delta = rows_dot_two_left(
                other, product, left_teacher, hidden_ptrs, in_rows[:, None], right, (v < V)[:, None], H, STEP
            )
            log_p = tl.where(in_vocabulary, log_p - offset, float("-inf"))
            p_higher = tl.maximum(p_top, tl.max(log_p, 1))
            p = tl.exp(log_p - p_higher[:, None])
            shrink = tl.exp(p_top - p_higher)
            p_total = p_total * shrink + tl.sum(p, 1)
            moved = moved * shrink + tl.sum(p * delta, 1)
            p_top = p_higher
            logits = log_p + delta
        else:
            logits = rows_dot(product, hidden_ptrs, in_rows[:, None], right, (v < V)[:, None], H, STEP)
            logits = tl.where(in_vocabulary, logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        q = tl.exp(logits - higher[:, None])
        shrink = tl.exp(top - higher)
        finite = tl.where(in_vocabulary, logits, 0.0)
        total = total * shrink + tl.sum(q, 1)
        if ENTROPY:
            weighted = weighted * shrink + tl.sum(q * finite, 1)
        top = higher
        hit = v[None, :] == target_id[:, None]
        picked += tl.sum(tl.where(hit, finite, 0.0), 1)
        if ids is not None:
            for first in range(0, K, PICKS):
                k = (first + tl.arange(0, PICKS))[None, :]
                listed = in_rows[:, None] & (k < K)
                column = tl.load(ids + n[:, None] * K + k, mask=listed, other=-1) - tile * COLUMNS
                listed = listed & (column >= 0) & (column < COLUMNS)
                if tl.max(tl.max(listed.to(tl.int32), 1), 0) > 0:
                    column = tl.minimum(tl.maximum(column, 0), COLUMNS - 1)
                    tl.store(at_ids + n[:, None] * K + k, tl.gather(finite, column, 1), mask=listed)
    partial_ptrs = partial + split.to(tl.int64) * N + n
    field = S.to(tl.int64) * N
    tl.store(partial_ptrs, top, mask=in_rows)
    tl.store(partial_ptrs + field, total, mask=in_rows)
    tl.store(partial_ptrs + 2 * field, picked, mask=in_rows)
    if ENTROPY:
        tl.store(partial_ptrs + 3 * field, weighted, mask=in_rows)
    if teacher is not None:
        tl.store(partial_ptrs + 4 * field, p_top, mask=in_rows)
        tl.store(partial_ptrs + 5 * field, p_total, mask=in_rows)
        tl.store(partial_ptrs + 6 * field, moved, mask=in_rows)


@triton.jit(do_not_specialize=["N", "S"])
def _merge_losses(
    partial,  # fp32 [4 or 7, S, N]
    out,  # fp32 [6, N]: log-sum-exp, its two summands, target's logit; if asked for mean logit and KL
    N,
    S,
    ENTROPY: tl.constexpr,
    TEACHER: tl.constexpr,
    ROWS: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = n < N
    field = S.to(tl.int64) * N
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    picked = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS,), tl.float32)
    p_top = tl.full((ROWS,), float("-inf"), tl.float32)
    p_total = tl.zeros((ROWS,), tl.float32)
    moved = tl.zeros((ROWS,), tl.float32)
    partial_ptrs = partial + n
    for _ in range(0, S):
        part = tl.load(partial_ptrs, mask=in_rows, other=0.0)
        higher = tl.maximum(top, part)
        old = tl.exp(top - higher)
        new = tl.exp(part - higher)
        total = total * old + tl.load(partial_ptrs + field, mask=in_rows, other=1.0) * new
        if ENTROPY:
            weighted = weighted * old + tl.load(partial_ptrs + 3 * field, mask=in_rows, other=0.0) * new
        picked += tl.load(partial_ptrs + 2 * field, mask=in_rows, other=0.0)
        top = higher
        if TEACHER:
            p_part = tl.load(partial_ptrs + 4 * field, mask=in_rows, other=0.0)
            p_higher = tl.maximum(p_top, p_part)
            p_old = tl.exp(p_top - p_higher)
            p_new = tl.exp(p_part - p_higher)
            p_total = p_total * p_old + tl.load(partial_ptrs + 5 * field, mask=in_rows, other=1.0) * p_new
            moved = moved * p_old + tl.load(partial_ptrs + 6 * field, mask=in_rows, other=0.0) * p_new
            p_top = p_higher
        partial_ptrs += N
    lse = top + tl.log(total)
    tl.store(out + n, lse, mask=in_rows)
    tl.store(out + N + n, top, mask=in_rows)
    tl.store(out + 2 * N + n, tl.log(total), mask=in_rows)
    tl.store(out + 3 * N + n, picked, mask=in_rows)
    if ENTROPY:
        tl.store(out + 4 * N + n, weighted / total, mask=in_rows)
    if TEACHER:
        kl = lse - (p_top + tl.log(p_total)) - moved / p_total
        tl.store(out + 5 * N + n, tl.maximum(kl, 0.0), mask=in_rows)


def _difference(hidden_NH: Tensor, teacher_NH: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded once, from fp32; without fp32 copies where all are of one dtype (torch subtracts in fp32)."""
    if hidden_NH.dtype == teacher_NH.dtype == dtype:
        return hidden_NH - teacher_NH
    return hidden_NH.float() - teacher_NH.float()


def losses(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_N: Tensor,
    *,
    entropy: bool = False,
    teacher_NH: Tensor | None = None,
    teacher_lse_N: Tensor | None = None,
    ids_NK: Tensor | None = None,
    tile: Tile | None = None,
    tiles_per_split: int = TILES_PER_SPLIT,
) -> LossParts:
    """See `secateur_kernels.linear_loss`; a target or id out of the vocabulary has a logit of 0."""
    against = teacher_NH is not None
    tile = tile or tile_for("linear_kl" if against else "linear_loss", head_VH.dtype, head_VH.device)
    tokens, hidden = hidden_NH.shape
    vocabulary = len(head_VH)
    splits = triton.cdiv(triton.cdiv(vocabulary, tile.columns), tiles_per_split)
    device = hidden_NH.device
    out = torch.empty(6, tokens, dtype=torch.float32, device=device)
    at_ids_NK = None
    if ids_NK is not None:
        ids_NK = ids_NK.contiguous()
        at_ids_NK = torch.zeros(ids_NK.shape, dtype=torch.float32, device=device)
    if tokens:
        if teacher_NH is not None:
            hidden_NH = _difference(hidden_NH, teacher_NH, head_VH.dtype)
            teacher_NH = teacher_NH.to(head_VH.dtype)
        hidden_NH = hidden_NH.to(head_VH.dtype)
        fields = _AGAINST if against else _PLAIN
        partial = torch.empty(fields, splits, tokens, dtype=torch.float32, device=device)
        ids = 0 if ids_NK is None else ids_NK.shape[1]
        _partial_losses[(triton.cdiv(tokens, tile.rows) * splits,)](
            hidden_NH,
            hidden_NH.stride(0),
            teacher_NH,
            0 if teacher_NH is None else teacher_NH.stride(0),
            None if teacher_lse_N is None else teacher_lse_N.contiguous(),
            head_VH,
            head_VH.stride(0),
            target_N,
            ids_NK,
            at_ids_NK,
            partial,
            tokens,
            splits,
            vocabulary,
            hidden,
            ids,
            ENTROPY=entropy,
            PICKS=min(MAX_PICKS, triton.next_power_of_2(ids)),
            TILES=tiles_per_split,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            STEP=tile.inner,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        _merge_losses[(triton.cdiv(tokens, 128),)](
            partial, out, tokens, splits, ENTROPY=entropy, TEACHER=against, ROWS=128, num_warps=4
        )
    lse_N, top_N, log_total_N, logit_N, mean_N, kl_N = out
    # Two steps, as log_softmax: large logits of either sign cancel before anything is rounded.
    log_q_NK = None if at_ids_NK is None else at_ids_NK - top_N[:, None] - log_total_N[:, None]
    if teacher_lse_N is None:
        return LossParts(lse_N, logit_N, mean_N if entropy else None, None, log_q_NK)
    # Against a teacher all logits are less its log-sum-exp.
    return LossParts(
        lse_N + teacher_lse_N,
        logit_N + teacher_lse_N,
        mean_N + teacher_lse_N if entropy else None,
        kl_N,
        None,
    )
