"""Per-layer checkpoints in vLLM: its Llama, with every decoder layer built for its own widths.

All families we prune are Llama but for the differences that `Family` names, so one class serves them all. A
removed sub-block has no module, no weights, and (attention) no key/value cache.

Shape suffixes: T tokens in the batch, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models.gemma3 import Gemma3MLP
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaMLP, LlamaModel
from vllm.model_executor.models.utils import extract_layer_index


@dataclass(frozen=True)
class Family:
    """By what a family differs from Llama, as far as its configuration does not say.

    Attributes:
        qkv_bias: biases on queries, keys and values always, and never on the output.
        qk_norm: each head's query and key are normalised before the rotary embedding.
        norm: the class of all norms.
        attention_norms, ffn_norms: the names of the norms before a sub-block and, if there is one, after it.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    norm: type[nn.Module] = RMSNorm
    attention_norms: tuple[str, ...] = ("input_layernorm",)
    ffn_norms: tuple[str, ...] = ("post_attention_layernorm",)


FAMILIES = {
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "gemma3_text": Family(
        qk_norm=True,
        norm=GemmaRMSNorm,
        attention_norms=("input_layernorm", "post_attention_layernorm"),
        ffn_norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
}


class SlimAttention(LlamaAttention):
    """Attention of any family: norms of heads or not, rotary embedding or not, scores scaled anyhow."""

    def __init__(self, *, config: Any, prefix: str, **kwargs: Any) -> None:
        super().__init__(config=config, prefix=prefix, **kwargs)
        family, layer = family_of(config), extract_layer_index(prefix)
        self.rotary_emb = _rotary(config, layer, self.head_dim)
        self.q_norm = family.norm(self.head_dim, eps=config.rms_norm_eps) if family.qk_norm else None
        self.k_norm = family.norm(self.head_dim, eps=config.rms_norm_eps) if family.qk_norm else None
        # vLLM's attention scales scores by head_dim**-0.5; queries make up the difference.
        self.query_scale = _attention_scale(config, self.scaling) / self.scaling
        rope = config.rope_parameters
        self.position_beta = rope.get("llama_4_scaling_beta")
        self.position_span = rope.get("original_max_position_embeddings")

    def _init_rotary_emb(self, config: Any, quant_config: Any) -> None:
        """Made later, when the layer's number is known."""

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attend; positions [T], hidden states [T, D]."""
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.unflatten(-1, (self.num_heads, self.head_dim))).flatten(-2)
            k = self.k_norm(k.unflatten(-1, (self.num_kv_heads, self.head_dim))).flatten(-2)
        if self.rotary_emb is not None:
            q, k = self.rotary_emb(positions, q, k)
        if self.query_scale != 1.0:
            q = q * self.query_scale
        if self.position_beta:  # as Ministral 3 does beyond its original context
            spans = torch.floor(positions / self.position_span)
            q = (q * (1 + self.position_beta * torch.log(1 + spans)).unsqueeze(-1)).to(q.dtype)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class SlimDecoderLayer(nn.Module):
    """One decoder layer; each sub-block, with its norms, may be missing."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config.per_layer_config[extract_layer_index(prefix)]
        family = family_of(config)
        self.residual_multiplier = getattr(config, "residual_multiplier", 1.0)
        self.self_attn: nn.Module | None = None
        self.mlp: nn.Module | None = None
        self.attention_norms, self.ffn_norms = family.attention_norms, family.ffn_norms
        if "attention" not in config.skip:
            self._add_norms(family, self.attention_norms, config)
            self.self_attn = _attention(config, vllm_config, f"{prefix}.self_attn")
        if "mlp" not in config.skip:
            self._add_norms(family, self.ffn_norms, config)
            self.mlp = _mlp(config, vllm_config, f"{prefix}.mlp")

    def _add_norms(self, family: Family, names: tuple[str, ...], config: Any) -> None:
        for name in names:
            self.add_module(name, family.norm(config.hidden_size, eps=config.rms_norm_eps))

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
            before, *after = self.attention_norms
            hidden_states, residual = _add_and_norm(getattr(self, before), hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
            hidden_states = self._finished(hidden_states, after)
        if self.mlp is not None:
            before, *after = self.ffn_norms
            hidden_states, residual = _add_and_norm(getattr(self, before), hidden_states, residual)
            hidden_states = self._finished(self.mlp(hidden_states), after)
        return hidden_states, residual

    def _finished(self, output: torch.Tensor, norms: list[str]) -> torch.Tensor:
        """What is added to the residual stream [T, D], from a sub-block's output."""
        for name in norms:
            output = getattr(self, name)(output)
        return output if self.residual_multiplier == 1.0 else output * self.residual_multiplier


@support_torch_compile
class SlimModel(LlamaModel):
    """The decoder: its embedding may be scaled, its last norm be the family's."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=SlimDecoderLayer)
        config = vllm_config.model_config.hf_config
        if get_pp_group().is_last_rank:
            self.norm: nn.Module = family_of(config).norm(config.hidden_size, eps=config.rms_norm_eps)
        scale = getattr(config, "embedding_multiplier", 1.0)
        if config.base_model_type == "gemma3_text":
            scale = config.hidden_size**0.5
        # Rounded to the dtype of the model, as transformers does.
        self.embedding_scale = float(torch.tensor(scale, dtype=vllm_config.model_config.dtype))

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The residual stream before the first layer [T, D]."""
        hidden_states = self.embed_tokens(input_ids)
        return hidden_states if self.embedding_scale == 1.0 else hidden_states * self.embedding_scale


class SecateurForCausalLM(LlamaForCausalLM):
    """What vLLM loads for ``architectures: ["SecateurForCausalLM"]``."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        scaling = getattr(self.config, "logits_scaling", 1.0)
        if scaling != 1.0 and hasattr(self, "logits_processor"):
            self.logits_processor = LogitsProcessor(self.config.vocab_size, scale=1.0 / scaling)

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type: Any = None) -> SlimModel:
        return SlimModel(vllm_config=vllm_config, prefix=prefix)


def family_of(config: Any) -> Family:
    """By what the family of a config differs from Llama."""
    return FAMILIES.get(config.base_model_type, Family())


def _add_and_norm(
    norm: nn.Module, hidden_states: torch.Tensor, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the pending output to the residual stream; return the stream normalised, and the stream."""
    if residual is None:  # the first sub-block of the model: what came in is the stream
        return norm(hidden_states), hidden_states
    return norm(hidden_states, residual)


def _rotary(config: Any, layer: int, head_dim: int) -> nn.Module | None:
    """The rotary embedding of a layer; None where it has none."""
    turns = getattr(config, "no_rope_layers", None)
    if turns and not turns[layer]:
        return None
    rope = config.rope_parameters
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] in rope:
        rope = rope[kinds[layer]]
    return get_rope(head_dim, max_position=config.max_position_embeddings, rope_parameters=rope)


def _attention_scale(config: Any, usual: float) -> float:
    scalar = getattr(config, "query_pre_attn_scalar", None)
    return scalar**-0.5 if scalar else getattr(config, "attention_multiplier", usual)


def _attention(config: Any, vllm_config: VllmConfig, prefix: str) -> SlimAttention:
    optional_bias = getattr(config, "attention_bias", False)
    return SlimAttention(
        config=config,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        quant_config=vllm_config.quant_config,
        bias=family_of(config).qkv_bias or optional_bias,
        bias_o_proj=optional_bias,
        cache_config=vllm_config.cache_config,
        prefix=prefix,
    )


def _mlp(config: Any, vllm_config: VllmConfig, prefix: str) -> nn.Module:
    sizes = (config.hidden_size, config.intermediate_size)
    if activation := getattr(config, "hidden_activation", None):
        return Gemma3MLP(*sizes, activation, quant_config=vllm_config.quant_config, prefix=prefix)
    return LlamaMLP(
        *sizes,
        config.hidden_act,
        quant_config=vllm_config.quant_config,
        bias=getattr(config, "mlp_bias", False),
        prefix=prefix,
    )
