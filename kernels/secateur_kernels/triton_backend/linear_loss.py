"""Linear layer and loss in one pass over the vocabulary: logits live in registers, tile by tile.

A tile of tokens goes through one split of the vocabulary with an online log-sum-exp; a second kernel
merges the splits in an order of its own. Tiles and splits do not depend on the number of tokens and nothing
is atomic, so a token's losses are the same to the bit in any batch, and whichever program made them.

Against a teacher, both products share the head's tile: t = teacher @ head.T and delta = (hidden -
teacher) @ head.T. With log p = t - lse_t the candidate's logits are, up to lse_t, log p + delta, and
KL = log sum p exp(delta) - sum p delta: rounding scales with the difference itself.

Logits at given ids (a teacher's likeliest) are taken out of the tile that has them: they are the very
numbers that the sum is made of, and no head row is read again for them.

Shape suffixes: N tokens, H hidden, V vocabulary, S splits, K ids.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur_kernels.linear_loss import LossParts
from secateur_kernels.triton_backend.descriptor import describable, described
from secateur_kernels.triton_backend.metadata import Arguments, metadata
from secateur_kernels.triton_backend.product import (
    LOG2_E,
    dot,
    grouped,
    row_dots,
    rows_dot,
    rows_dot_two_left,
)
from secateur_kernels.triton_backend.tile import GROUP, Tile, tile_for
from secateur_kernels.work import Work, linear_loss_work

IDS_PER_SPLIT = 2048
MERGED = 16  # tokens whose splits a program merges
# Ids looked up at a time; a power of two. As ids ascend, few such groups have any in one tile, and the
# others are skipped: taking numbers out of a tile is shuffles in proportion to its columns (not yet timed).
MAX_PICKS = 16
# Sums that a split leaves per token: maximum and sum of its logits, sum q*l (left unwritten without
# entropy); against a teacher also maximum and sum of log p, and sum p*delta.
_ALONE, _AGAINST = 3, 6


def _work(arguments: Arguments, itemsize: int) -> Work:
    against = arguments["teacher"] is not None
    return linear_loss_work(
        arguments["N"], arguments["H"], arguments["V"], itemsize, teacher_hidden=against, top_k=arguments["K"]
    )


@triton.jit
def _no_sums(ROWS: tl.constexpr):
    """What `_fold` starts from."""
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    zero = tl.zeros((ROWS,), tl.float32)
    return top, zero, zero, top, zero, zero


@triton.jit
def _fold(
    sums,  # of this split so far: see `_ALONE`, `_AGAINST`
    product,  # [ROWS, COLUMNS]: the logits, or against a teacher delta
    log_p,  # [ROWS, COLUMNS]: the teacher's logits
    offset,  # [ROWS]: the teacher's log-sum-exp
    n,
    N,
    tile,
    V,
    ids,
    at_ids,
    K,
    AGAINST: tl.constexpr,
    ENTROPY: tl.constexpr,
    PICKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sums with one more tile of the vocabulary."""
    top, total, weighted, p_top, p_total, moved = sums
    v = tile * COLUMNS + tl.arange(0, COLUMNS)
    logits = product
    if AGAINST:
        log_p = log_p - offset[:, None]
        if tile * COLUMNS + COLUMNS > V:
            log_p = tl.where((v < V)[None, :], log_p, float("-inf"))
        p_higher = tl.maximum(p_top, tl.max(log_p, 1))
        p = tl.exp2(log_p * LOG2_E - (p_higher * LOG2_E)[:, None])
        shrink = tl.exp2((p_top - p_higher) * LOG2_E)
        p_total = p_total * shrink + tl.sum(p, 1)
        moved = moved * shrink + tl.sum(p * product, 1)
        p_top = p_higher
        logits = log_p + product
    elif tile * COLUMNS + COLUMNS > V:
        logits = tl.where((v < V)[None, :], logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, 1))
    q = tl.exp2(logits * LOG2_E - (higher * LOG2_E)[:, None])
    shrink = tl.exp2((top - higher) * LOG2_E)
    total = total * shrink + tl.sum(q, 1)
    if ENTROPY:
        weighted = weighted * shrink + tl.sum(q * tl.where((v < V)[None, :], logits, 0.0), 1)
    if ids is not None:
        for first in range(0, K, PICKS):
            k = (first + tl.arange(0, PICKS))[None, :]
            listed = (n < N)[:, None] & (k < K)
            column = tl.load(ids + n[:, None] * K + k, mask=listed, other=-1) - tile * COLUMNS
            listed = listed & (column >= 0) & (column < tl.minimum(COLUMNS, V - tile * COLUMNS))
            if tl.max(tl.max(listed.to(tl.int32), 1), 0) > 0:
                column = tl.minimum(tl.maximum(column, 0), COLUMNS - 1)
                tl.store(at_ids + n[:, None] * K + k, tl.gather(logits, column, 1), mask=listed)
    return higher, total, weighted, p_top, p_total, moved


@triton.jit
def _write(sums, partial, split, n, N, S, AGAINST: tl.constexpr, ENTROPY: tl.constexpr):
    """The sums of one split to `partial`."""
    top, total, weighted, p_top, p_total, moved = sums
    in_rows = n < N
    partial_ptrs = partial + split.to(tl.int64) * N + n
    field = S.to(tl.int64) * N
    tl.store(partial_ptrs, top, mask=in_rows)
    tl.store(partial_ptrs + field, total, mask=in_rows)
    if ENTROPY:
        tl.store(partial_ptrs + 2 * field, weighted, mask=in_rows)
    if AGAINST:
        tl.store(partial_ptrs + 3 * field, p_top, mask=in_rows)
        tl.store(partial_ptrs + 4 * field, p_total, mask=in_rows)
        tl.store(partial_ptrs + 5 * field, moved, mask=in_rows)


@triton.jit(do_not_specialize=["N", "S"], launch_metadata=metadata("linear_loss", _work, "head"))
def _partial_losses(
    hidden,  # [N, H]; against a teacher: hidden - teacher
    hidden_per_token,
    teacher,  # [N, H] or None
    teacher_per_token,
    shift,  # the teacher's log-sum-exp, fp32 [N], or None
    head,  # [V, H]
    head_per_row,
    ids,  # int32 [N, K] or None
    at_ids,  # fp32 [N, K]: the logits there, or None
    partial,  # fp32 [3 or 6, S, N]
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
    """A program for each tile of tokens and split of the vocabulary; rows are loaded by pointers."""
    AGAINST: tl.constexpr = teacher is not None
    row_tiles = tl.cdiv(N, ROWS)
    program = tl.program_id(0)
    split = program // row_tiles
    n = (program % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = n < N
    hidden_ptrs = hidden + n[:, None] * hidden_per_token
    offset = tl.zeros((ROWS,), tl.float32)
    left_teacher = hidden_ptrs
    if AGAINST:
        offset = tl.load(shift + n, mask=in_rows, other=0.0)
        left_teacher = teacher + n[:, None] * teacher_per_token
    sums = _no_sums(ROWS)
    last = tl.minimum((split + 1) * TILES, tl.cdiv(V, COLUMNS))
    for tile in range(split * TILES, last):
        v = (tile * COLUMNS + tl.arange(0, COLUMNS))[:, None]
        right = head + v.to(tl.int64) * head_per_row
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        log_p = product
        if AGAINST:
            log_p, product = rows_dot_two_left(
                log_p, product, left_teacher, hidden_ptrs, in_rows[:, None], right, v < V, H, STEP
            )
        else:
            product = rows_dot(product, hidden_ptrs, in_rows[:, None], right, v < V, H, STEP)
        sums = _fold(
            sums,
            product,
            log_p,
            offset,
            n,
            N,
            tile,
            V,
            ids,
            at_ids,
            K,
            AGAINST,
            ENTROPY,
            PICKS,
            COLUMNS,
        )
    _write(sums, partial, split, n, N, S, AGAINST, ENTROPY)


@triton.jit(do_not_specialize=["N", "S"], launch_metadata=metadata("linear_loss", _work, "head"))
def _partial_losses_walked(
    hidden,  # described: [N, H]; against a teacher: hidden - teacher
    teacher,  # described: [N, H], or None
    shift,  # the teacher's log-sum-exp, fp32 [N], or None
    head,  # described: [V, H]
    ids,  # int32 [N, K] or None
    at_ids,  # fp32 [N, K]: the logits there, or None
    partial,  # fp32 [3 or 6, S, N]
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
    GROUP: tl.constexpr,
):
    """As many programs as the GPU holds walk the tiles; what they multiply is loaded ahead, also past a tile.

    The last split of the vocabulary is walked whole: what is beyond the end counts nothing.
    """
    AGAINST: tl.constexpr = teacher is not None
    row_tiles = tl.cdiv(N, ROWS)
    program = tl.program_id(0)
    mine = tl.cdiv(row_tiles * S - program, tl.num_programs(0))
    steps = tl.cdiv(H, STEP)
    step = steps - 1
    unit = -1
    row, split, tile = 0, 0, 0
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    log_p = tl.zeros((ROWS, COLUMNS), tl.float32)
    sums = _no_sums(ROWS)
    # One loop, not three: so operands of the next tile are on their way while this one is folded.
    for _ in range(0, mine * TILES * steps):
        step = tl.where(step == steps - 1, 0, step + 1)
        if step == 0:
            unit += 1
            row, split = grouped(program + unit // TILES * tl.num_programs(0), row_tiles, S, GROUP)
            tile = split * TILES + unit % TILES
        right = head.load([tile * COLUMNS, step * STEP]).T
        if AGAINST:
            log_p = dot(teacher.load([row * ROWS, step * STEP]), right, log_p)
        product = dot(hidden.load([row * ROWS, step * STEP]), right, product)
        if step == steps - 1:
            n = row.to(tl.int64) * ROWS + tl.arange(0, ROWS)
            offset = tl.zeros((ROWS,), tl.float32)
            if AGAINST:
                offset = tl.load(shift + n, mask=n < N, other=0.0)
            sums = _fold(
                sums, product, log_p, offset, n, N, tile, V, ids, at_ids, K, AGAINST, ENTROPY, PICKS, COLUMNS
            )
            product = tl.zeros((ROWS, COLUMNS), tl.float32)
            log_p = tl.zeros((ROWS, COLUMNS), tl.float32)
            if unit % TILES == TILES - 1:
                _write(sums, partial, split, n, N, S, AGAINST, ENTROPY)
                sums = _no_sums(ROWS)


@triton.jit(do_not_specialize=["N", "S"])
def _merge_losses(
    partial,  # fp32 [3 or 6, S, N]
    hidden,  # as above, by pointers
    hidden_per_token,
    teacher,
    teacher_per_token,
    shift,
    head,
    head_per_row,
    target,  # int64 [N]
    out,  # fp32 [6, N]: log-sum-exp, its two summands, target's logit; if asked for mean logit and KL
    N,
    S,
    V,
    H,
    ENTROPY: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
):
    """The splits of a token, always in the same order; and its target's logit, which no tile looks for."""
    n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = n < N
    split = tl.arange(0, SPLITS)[:, None]
    in_splits = split < S
    there = in_splits & in_rows[None, :]
    field = S.to(tl.int64) * N
    at = partial + split.to(tl.int64) * N + n[None, :]
    part = tl.where(in_splits, tl.load(at, mask=there, other=0.0), float("-inf"))
    top = tl.max(part, 0)
    scale = tl.exp2((part - top[None, :]) * LOG2_E)
    total = tl.sum(scale * tl.load(at + field, mask=there, other=1.0), 0)
    lse = top + tl.log(total)
    tl.store(out + n, lse, mask=in_rows)
    tl.store(out + N + n, top, mask=in_rows)
    tl.store(out + 2 * N + n, tl.log(total), mask=in_rows)
    if ENTROPY:
        weighted = tl.sum(scale * tl.load(at + 2 * field, mask=there, other=0.0), 0)
        tl.store(out + 4 * N + n, weighted / total, mask=in_rows)
    if teacher is not None:
        part = tl.where(in_splits, tl.load(at + 3 * field, mask=there, other=0.0), float("-inf"))
        p_top = tl.max(part, 0)
        scale = tl.exp2((part - p_top[None, :]) * LOG2_E)
        p_total = tl.sum(scale * tl.load(at + 4 * field, mask=there, other=1.0), 0)
        moved = tl.sum(scale * tl.load(at + 5 * field, mask=there, other=0.0), 0)
        kl = lse - (p_top + tl.log(p_total)) - moved / p_total
        tl.store(out + 5 * N + n, tl.maximum(kl, 0.0), mask=in_rows)
    target_id = tl.load(target + n, mask=in_rows, other=-1)
    known = (target_id >= 0) & (target_id < V)
    right = head + tl.where(known, target_id, 0)[:, None] * head_per_row
    logit = row_dots(hidden + n[:, None] * hidden_per_token, right, known[:, None], H, ROWS, STEP)
    if teacher is not None:
        logit += row_dots(teacher + n[:, None] * teacher_per_token, right, known[:, None], H, ROWS, STEP)
        logit -= tl.load(shift + n, mask=known, other=0.0)
    # Rounded otherwise than in its tile: no more than all logits together still.
    logit = tl.where(known, tl.minimum(logit, lse), 0.0)
    tl.store(out + 3 * N + n, logit, mask=in_rows)


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
    tiles_per_split: int | None = None,
) -> LossParts:
    """See `secateur_kernels.linear_loss`; a target or id out of the vocabulary has a logit of 0."""
    against = teacher_NH is not None
    kernel = "linear_kl" if against else "linear_loss" if ids_NK is None else "linear_top_k"
    tile = tile or tile_for(kernel, head_VH.dtype, head_VH.device)
    if entropy:  # which takes more registers than two blocks leave each other
        tile = replace(tile, blocks=min(tile.blocks, 1))
    tokens, hidden = hidden_NH.shape
    vocabulary = len(head_VH)
    tiles_per_split = tiles_per_split or IDS_PER_SPLIT // tile.columns
    tiles_per_split = min(tiles_per_split, triton.cdiv(vocabulary, tile.columns))
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
        fields = _AGAINST if against else _ALONE
        partial = torch.empty(fields, splits, tokens, dtype=torch.float32, device=device)
        ids = 0 if ids_NK is None else ids_NK.shape[1]
        operands = [hidden_NH, head_VH] if teacher_NH is None else [hidden_NH, head_VH, teacher_NH]
        rest = (
            ids_NK,
            at_ids_NK,
            partial,
            tokens,
            splits,
            vocabulary,
            hidden,
            ids,
        )
        options: dict[str, Any] = {
            "ENTROPY": entropy,
            "PICKS": min(MAX_PICKS, triton.next_power_of_2(ids)),
            "TILES": tiles_per_split,
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "STEP": tile.inner,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }
        shift = None if teacher_lse_N is None else teacher_lse_N.contiguous()
        pointers = (
            hidden_NH,
            hidden_NH.stride(0),
            teacher_NH,
            0 if teacher_NH is None else teacher_NH.stride(0),
            shift,
            head_VH,
            head_VH.stride(0),
        )
        items = triton.cdiv(tokens, tile.rows) * splits
        if tile.blocks and describable(*operands):
            _partial_losses_walked[(tile.programs(items, device),)](
                described(hidden_NH, tile.rows, tile.inner),
                None if teacher_NH is None else described(teacher_NH, tile.rows, tile.inner),
                shift,
                described(head_VH, tile.columns, tile.inner),
                *rest,
                GROUP=GROUP,
                maxnreg=tile.registers,
                **options,
            )
        else:
            _partial_losses[(items,)](*pointers, *rest, **options)
        _merge_losses[(triton.cdiv(tokens, MERGED),)](
            partial,
            *pointers,
            target_N,
            out,
            tokens,
            splits,
            vocabulary,
            hidden,
            ENTROPY=entropy,
            SPLITS=triton.next_power_of_2(splits),
            ROWS=MERGED,
            STEP=64,
            num_warps=4,
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
