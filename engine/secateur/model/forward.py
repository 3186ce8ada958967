"""The forward pass, sub-block by sub-block, over whatever widths the tensors have.

What a sub-block computes is `secateur_kernels`' matter (in torch on a CPU or where gradients are asked
for); here are norms, the residual stream, and windows of one length as the kernels' packed sequences.

Each sub-block is a function of the residual stream that returns its *inner* activations (what its
last projection reads) so that calibration can look at them, evaluation can branch between
sub-blocks, and a repaired projection can be swapped in. Nothing here holds state.

Shape suffixes: B windows, T tokens of a window, H hidden, D head_dim, N tokens of all
windows, Q query channels, C FFN channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from secateur.model.decoder import (
    AttentionWeights,
    DecoderModel,
    FfnWeights,
    SubBlock,
    dense_config,
    map_block,
)
from secateur.model.families import Multipliers
from secateur.model.rotary import RotaryTables, convert_tables, rotary_tables
from secateur_kernels import Activation, Heads, Packing, gated_inner, linear_nll
from secateur_kernels import attention_inner as attend

BATCH_WINDOWS = 16


@dataclass(frozen=True)
class ForwardContext:
    """What the forward pass needs besides weights, for windows of one length.

    Attributes:
        rotary: per layer, its rotary tables, in the dtype of the model; layers that turn alike share them.
        head_dim: channels per head.
        queries_per_group: query heads per KV group.
        norm_eps: epsilon of the RMS norms.
        spans: per layer, how many keys back a query sees where that is less than a window; else None.
        activation: of the FFN's gate.
        norm_offset: what is added to the weights of norms.
        multipliers: what else a family multiplies by.
    """

    rotary: tuple[RotaryTables, ...]
    head_dim: int
    queries_per_group: int
    norm_eps: float
    spans: tuple[int | None, ...]
    activation: Activation = "silu"
    norm_offset: float = 0.0
    multipliers: Multipliers = field(default_factory=Multipliers)
    _packings: dict[tuple[int, int], Packing] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return self.rotary[0].cos_TD.device

    @property
    def dtype(self) -> torch.dtype:
        return self.rotary[0].cos_TD.dtype

    def packing(self, windows: int, layer: int) -> Packing:
        """So many windows one after the other, as a layer sees them."""
        tables = self.rotary[layer]
        key = (windows, id(tables))
        if key not in self._packings:
            lengths = [len(tables.cos_TD)] * windows
            self._packings[key] = Packing.of(lengths, tables.cos_TD, tables.sin_TD)
        return self._packings[key]

    def heads(self, block: AttentionWeights, layer: int) -> Heads:
        """An attention sub-block as the kernels read it."""
        return Heads(
            block.query_QH,
            block.key_KH,
            block.value_KH,
            self.head_dim,
            block.query_bias_Q,
            block.key_bias_K,
            block.value_bias_K,
            self._norm_weight(block.query_norm_D),
            self._norm_weight(block.key_norm_D),
            self.norm_eps,
            self.spans[layer],
            self.multipliers.attention,
        )

    def norm(self, x_BTH: Tensor, weight_H: Tensor) -> Tensor:
        """A norm of the residual stream, or of what is added to it."""
        return rms_norm(x_BTH, weight_H, self.norm_eps, self.norm_offset)

    def _norm_weight(self, stored_D: Tensor | None) -> Tensor | None:
        return stored_D + self.norm_offset if stored_D is not None and self.norm_offset else stored_D


def forward_context(
    model: DecoderModel,
    window: int,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> ForwardContext:
    """Rotary tables and masks of `model` for windows of `window` tokens; dtype and device: the model's."""
    config = model.config
    tables = rotary_tables(dense_config(config), model.head_dim, window, partial=model.family.partial_rotary)
    tables = convert_tables(tables, device or model.device, dtype or model.dtype)
    span = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    spans = tuple(
        span
        if span is not None and span < window and (kinds is None or kinds[layer] == "sliding_attention")
        else None
        for layer in range(model.num_layers)
    )
    return ForwardContext(
        rotary=tables,
        head_dim=model.head_dim,
        queries_per_group=model.queries_per_group,
        norm_eps=config.rms_norm_eps,
        spans=spans,
        activation=model.family.activation,
        norm_offset=model.family.norm_offset,
        multipliers=model.multipliers,
    )


def rms_norm(x_BTH: Tensor, weight_H: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """RMS norm with the statistics in fp32, rounded before the weight is applied, as the families do.

    Those that store weights about zero (`offset` 1) apply them in fp32.
    """
    x32 = x_BTH.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    if offset:
        return (x32 * scale * (offset + weight_H.float())).to(x_BTH.dtype)
    return (x32 * scale).to(x_BTH.dtype) * weight_H


def attention_inner(x_BTH: Tensor, block: AttentionWeights, context: ForwardContext, layer: int) -> Tensor:
    """What the output projection reads, [B, T, Q]: the attended values of every query head."""
    normed_NH = context.norm(x_BTH, block.norm_H).flatten(0, 1)
    inner_NQ = attend(normed_NH, context.heads(block, layer), context.packing(len(x_BTH), layer))
    return inner_NQ.unflatten(0, x_BTH.shape[:2])


def ffn_inner(x_BTH: Tensor, block: FfnWeights, context: ForwardContext) -> Tensor:
    """What the down projection reads, [B, T, C]: act(gate) * up."""
    inner_NC = gated_inner(
        context.norm(x_BTH, block.norm_H).flatten(0, 1),
        block.gate_CH,
        block.up_CH,
        gate_bias_C=block.gate_bias_C,
        up_bias_C=block.up_bias_C,
        activation=context.activation,
    )
    return inner_NC.unflatten(0, x_BTH.shape[:2])


def sub_block_inner(x_BTH: Tensor, block: SubBlock, context: ForwardContext, layer: int) -> Tensor:
    """The inner activations of a sub-block of either kind."""
    if isinstance(block, AttentionWeights):
        return attention_inner(x_BTH, block, context, layer)
    return ffn_inner(x_BTH, block, context)


def project_output(inner_BTN: Tensor, block: SubBlock) -> Tensor:
    """What the last projection makes of its inner activations, [B, T, H]."""
    if isinstance(block, AttentionWeights):
        return functional.linear(inner_BTN, block.output_HQ, block.output_bias_H)
    return functional.linear(inner_BTN, block.down_HC, block.down_bias_H)


def contribution(output_BTH: Tensor, block: SubBlock, context: ForwardContext) -> Tensor:
    """What is added to the residual stream, [B, T, H]: the output, in most families as it is."""
    if block.post_norm_H is not None:
        output_BTH = context.norm(output_BTH, block.post_norm_H)
    scale = context.multipliers.residual
    return output_BTH if scale == 1.0 else output_BTH * scale


def add_inner(x_BTH: Tensor, inner_BTN: Tensor, block: SubBlock, context: ForwardContext) -> Tensor:
    """The residual stream after a sub-block, from its inner activations."""
    return x_BTH + contribution(project_output(inner_BTN, block), block, context)


def apply_block(x_BTH: Tensor, block: SubBlock | None, context: ForwardContext, layer: int) -> Tensor:
    """The residual stream after a sub-block; unchanged where it is removed."""
    if block is None:
        return x_BTH
    return add_inner(x_BTH, sub_block_inner(x_BTH, block, context, layer), block, context)


def embed(model: DecoderModel, tokens_BT: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The residual stream before the first layer, [B, T, H], where the model is.

    Its multiplier is rounded to the dtype of the model, as transformers and vLLM do.
    """
    x_BTH = functional.embedding(tokens_BT.to(model.device), model.embedding_VH).to(dtype or model.dtype)
    scale = model.multipliers.embedding
    return x_BTH if scale == 1.0 else x_BTH * float(torch.tensor(scale, dtype=model.dtype))


def final_hidden(model: DecoderModel, x_BTH: Tensor) -> Tensor:
    """What the output head reads, [B, T, H]; the multiplier of the logits is in it."""
    weight_H = model.final_norm_H.to(x_BTH.dtype)
    hidden_BTH = rms_norm(x_BTH, weight_H, model.config.rms_norm_eps, model.family.norm_offset)
    scale = model.multipliers.logits
    return hidden_BTH if scale == 1.0 else hidden_BTH * scale


def run_blocks(
    x_BTH: Tensor, blocks: Iterable[tuple[int, SubBlock | None]], context: ForwardContext
) -> Tensor:
    """The residual stream after several sub-blocks, given as (layer, sub-block)."""
    for layer, block in blocks:
        x_BTH = apply_block(x_BTH, block, context, layer)
    return x_BTH


def hidden_states(model: DecoderModel, tokens_BT: Tensor, context: ForwardContext) -> Tensor:
    """What the output head reads for whole windows, [B, T, H]."""
    blocks = (
        (index, half) for index, layer in enumerate(model.layers) for half in (layer.attention, layer.ffn)
    )
    return final_hidden(model, run_blocks(embed(model, tokens_BT), blocks, context))


@torch.inference_mode()
def mean_nll(
    model: DecoderModel, windows_BT: Tensor, advance: Callable[[int], None] = lambda windows: None
) -> float:
    """Mean negative log-likelihood over the T - 1 predicted tokens of every window, nats per token.

    Weights and matrix products in the model's dtype, losses in fp32.

    Args:
        advance: called with the number of windows after each batch of them.
    """
    context = forward_context(model, windows_BT.shape[1])
    totals = []
    for tokens_BT in windows_BT.to(model.device).split(BATCH_WINDOWS):
        hidden_BTH = hidden_states(model, tokens_BT, context)
        target_N = tokens_BT[:, 1:].flatten()
        totals.append(linear_nll(hidden_BTH[:, :-1].flatten(0, 1), model.head_VH, target_N).double().sum())
        advance(len(tokens_BT))
    return float(torch.stack(totals).sum()) / (windows_BT.shape[0] * (windows_BT.shape[1] - 1))


@torch.inference_mode()
def float32_nll(model: DecoderModel, tokens: Sequence[int]) -> float:
    """Mean negative log-likelihood of one window in float32, nats per token, whatever dtype the model has.

    A sub-block at a time is widened, and the head, so that large models take little more memory.
    """
    tokens_BT = torch.tensor([tokens]).to(model.device)
    context = forward_context(model, len(tokens), torch.float32)
    blocks = (
        (index, map_block(half, Tensor.float))
        for index, layer in enumerate(model.layers)
        for half in (layer.attention, layer.ffn)
        if half is not None
    )
    x_BTH = run_blocks(embed(model, tokens_BT, torch.float32), blocks, context)
    hidden_NH = final_hidden(model, x_BTH)[0, :-1]
    return float(linear_nll(hidden_NH, model.head_VH.float(), tokens_BT[0, 1:]).double().mean())


def perplexity(nll: float) -> float:
    """Exp of a mean NLL; infinite where it does not fit a float."""
    return math.exp(nll) if nll < 700 else math.inf
