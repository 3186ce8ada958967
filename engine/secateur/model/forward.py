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
from secateur_kernels import Heads, Packing, gated_inner, linear_nll
from secateur_kernels import attention_inner as attend

BATCH_WINDOWS = 16


@dataclass(frozen=True)
class ForwardContext:
    """What the forward pass needs besides weights, for windows of one length.

    Attributes:
        cos_TD, sin_TD: rotary tables, in the dtype of the model.
        head_dim: channels per head.
        queries_per_group: query heads per KV group.
        norm_eps: epsilon of the RMS norms.
        spans: per layer, how many keys back a query sees where that is less than a window; else None.
    """

    cos_TD: Tensor
    sin_TD: Tensor
    head_dim: int
    queries_per_group: int
    norm_eps: float
    spans: tuple[int | None, ...]
    _packings: dict[int, Packing] = field(default_factory=dict, repr=False, compare=False)

    def packing(self, windows: int) -> Packing:
        """So many windows one after the other."""
        if windows not in self._packings:
            lengths = [len(self.cos_TD)] * windows
            self._packings[windows] = Packing.of(lengths, self.cos_TD, self.sin_TD)
        return self._packings[windows]

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
            block.query_norm_D,
            block.key_norm_D,
            self.norm_eps,
            self.spans[layer],
        )


def forward_context(
    model: DecoderModel,
    window: int,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> ForwardContext:
    """Rotary tables and masks of `model` for windows of `window` tokens; dtype and device: the model's."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = model.config
    rotary = LlamaRotaryEmbedding(config=dense_config(config))
    cos, sin = rotary(torch.zeros(1, window, 1, dtype=torch.float32), torch.arange(window)[None])
    span = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    spans = tuple(
        span
        if span is not None and span < window and (kinds is None or kinds[layer] == "sliding_attention")
        else None
        for layer in range(model.num_layers)
    )
    return ForwardContext(
        cos_TD=cos[0].to(device or model.device, dtype or model.dtype),
        sin_TD=sin[0].to(device or model.device, dtype or model.dtype),
        head_dim=model.head_dim,
        queries_per_group=model.queries_per_group,
        norm_eps=config.rms_norm_eps,
        spans=spans,
    )


def rms_norm(x_BTH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """RMS norm with the statistics in fp32, rounded before the weight is applied, as the families do."""
    x32 = x_BTH.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale).to(x_BTH.dtype) * weight_H


def attention_inner(x_BTH: Tensor, block: AttentionWeights, context: ForwardContext, layer: int) -> Tensor:
    """What the output projection reads, [B, T, Q]: the attended values of every query head."""
    normed_NH = rms_norm(x_BTH, block.norm_H, context.norm_eps).flatten(0, 1)
    inner_NQ = attend(normed_NH, context.heads(block, layer), context.packing(len(x_BTH)))
    return inner_NQ.unflatten(0, x_BTH.shape[:2])


def ffn_inner(x_BTH: Tensor, block: FfnWeights, context: ForwardContext) -> Tensor:
    """What the down projection reads, [B, T, C]: silu(gate) * up."""
    inner_NC = gated_inner(
        rms_norm(x_BTH, block.norm_H, context.norm_eps).flatten(0, 1),
        block.gate_CH,
        block.up_CH,
        gate_bias_C=block.gate_bias_C,
        up_bias_C=block.up_bias_C,
    )
    return inner_NC.unflatten(0, x_BTH.shape[:2])


def sub_block_inner(x_BTH: Tensor, block: SubBlock, context: ForwardContext, layer: int) -> Tensor:
    """The inner activations of a sub-block of either kind."""
    if isinstance(block, AttentionWeights):
        return attention_inner(x_BTH, block, context, layer)
    return ffn_inner(x_BTH, block, context)


def project_output(inner_BTN: Tensor, block: SubBlock) -> Tensor:
    """The sub-block's contribution to the residual stream, [B, T, H]."""
    if isinstance(block, AttentionWeights):
        return functional.linear(inner_BTN, block.output_HQ, block.output_bias_H)
    return functional.linear(inner_BTN, block.down_HC, block.down_bias_H)


def apply_block(x_BTH: Tensor, block: SubBlock | None, context: ForwardContext, layer: int) -> Tensor:
    """The residual stream after a sub-block; unchanged where it is removed."""
    if block is None:
        return x_BTH
    return x_BTH + project_output(sub_block_inner(x_BTH, block, context, layer), block)


def embed(model: DecoderModel, tokens_BT: Tensor) -> Tensor:
    """The residual stream before the first layer, [B, T, H], where the model is."""
    return functional.embedding(tokens_BT.to(model.device), model.embedding_VH)


def final_hidden(model: DecoderModel, x_BTH: Tensor) -> Tensor:
    """What the output head reads, [B, T, H]."""
    return rms_norm(x_BTH, model.final_norm_H, model.config.rms_norm_eps)


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
    x_BTH = run_blocks(embed(model, tokens_BT).float(), blocks, context)
    hidden_NH = rms_norm(x_BTH, model.final_norm_H.float(), model.config.rms_norm_eps)[0, :-1]
    return float(linear_nll(hidden_NH, model.head_VH.float(), tokens_BT[0, 1:]).double().mean())


def perplexity(nll: float) -> float:
    """Exp of a mean NLL; infinite where it does not fit a float."""
    return math.exp(nll) if nll < 700 else math.inf
