"""Per-layer checkpoints in vLLM: its Llama, with every decoder layer built for its own widths.

All families we prune are Llama but for biases and the norms of queries and keys, so one class serves
them all. A removed sub-block has no module, no weights, and (attention) no key/value cache.

Shape suffixes: T tokens in the batch, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaMLP
from vllm.model_executor.models.utils import extract_layer_index

QKV_BIAS = {"qwen2"}
"""Families that always have biases on queries, keys and values, and never on the output."""

QK_NORM = {"qwen3"}
"""Families that normalise each head's query and key before the rotary embedding."""


class NormedAttention(LlamaAttention):
    """Attention whose queries and keys are normalised head by head (Qwen3)."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attend; positions [T], hidden states [T, D]."""
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q = self.q_norm(q.unflatten(-1, (self.num_heads, self.head_dim))).flatten(-2)
        k = self.k_norm(k.unflatten(-1, (self.num_kv_heads, self.head_dim))).flatten(-2)
        q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class SlimDecoderLayer(nn.Module):
    """One decoder layer; each sub-block, with its norm, may be missing."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config.per_layer_config[extract_layer_index(prefix)]
        self.self_attn: nn.Module | None = None
        self.mlp: nn.Module | None = None
        if "attention" not in config.skip:
            self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.self_attn = _attention(config, vllm_config, f"{prefix}.self_attn")
        if "mlp" not in config.skip:
            self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.mlp = _mlp(config, vllm_config, f"{prefix}.mlp")

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run what is there.

        Args:
            positions: token positions [T].
            hidden_states: the last executed sub-block's output, not yet added [T, D].
            residual: the residual stream before it [T, D]; None until a sub-block has run.
        """
        if self.self_attn is not None:
            hidden_states, residual = _add_and_norm(self.input_layernorm, hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        if self.mlp is not None:
            hidden_states, residual = _add_and_norm(self.post_attention_layernorm, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


class SecateurForCausalLM(LlamaForCausalLM):
    """What vLLM loads for ``architectures: ["SecateurForCausalLM"]``."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=SlimDecoderLayer)


def _add_and_norm(
    norm: RMSNorm, hidden_states: torch.Tensor, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the pending output to the residual stream; return the stream normalised, and the stream."""
    if residual is None:  # the first sub-block of the model: what came in is the stream
        return norm(hidden_states), hidden_states
    return norm(hidden_states, residual)


def _attention(config: Any, vllm_config: VllmConfig, prefix: str) -> LlamaAttention:
    family = config.base_model_type
    attention = NormedAttention if family in QK_NORM else LlamaAttention
    optional_bias = getattr(config, "attention_bias", False)
    return attention(
        config=config,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        quant_config=vllm_config.quant_config,
        bias=family in QKV_BIAS or optional_bias,
        bias_o_proj=optional_bias,
        cache_config=vllm_config.cache_config,
        prefix=prefix,
    )


def _mlp(config: Any, vllm_config: VllmConfig, prefix: str) -> LlamaMLP:
    return LlamaMLP(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        quant_config=vllm_config.quant_config,
        bias=getattr(config, "mlp_bias", False),
        prefix=prefix,
    )
