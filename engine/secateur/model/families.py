"""What each model family calls its parts, and by what it differs: one row per family, no code per family.

A row says where the tensors of the two sub-blocks are and which of them may carry a bias. All families
share the pre-norm decoder layout (norm, attention, residual; norm, gated FFN, residual). What else a
family does is one of the differences that a row can name; whatever is none of them must be refused, not
guessed (`UnsupportedModel`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from secateur.errors import UnsupportedModel


@dataclass(frozen=True)
class Multipliers:
    """Numbers of a configuration that a forward pass multiplies by.

    Attributes:
        embedding: what enters the first layer.
        attention: scores before the softmax; None for ``head_dim**-0.5``.
        residual: what a sub-block adds to the residual stream.
        logits: the logits.
    """

    embedding: float = 1.0
    attention: float | None = None
    residual: float = 1.0
    logits: float = 1.0


def _of_none(config: Any) -> Multipliers:
    return Multipliers()


@dataclass(frozen=True)
class ModelFamily:
    """Tensor names of one family, relative to a layer (``model.layers.N.``) unless said.

    Attributes:
        model_type: the key in ``config.json``.
        attention_norm, query, key, value, output: module names of the attention sub-block.
        query_norm, key_norm: per-head norms on queries and keys, or None.
        ffn_norm, gate, up, down: module names of the FFN sub-block.
        attention_post_norm, ffn_post_norm: norms of what a sub-block adds to the residual stream, or None.
        biased: modules that may carry a ``.bias`` beside their ``.weight``.
        fused: modules as stored -> the modules whose rows they hold one after the other.
        embedding, final_norm, head: module names from the root.
        activation: of the FFN's gate; ``activation_field`` names it in the config.
        norm_offset: what is added to the weights of norms: 1 where they are stored about zero.
        multipliers: the multipliers of a config.
        partial_rotary: whether ``partial_rotary_factor`` of the rotary parameters counts.
        must_be_off: fields of the config that are supported only where they are unset or false.
        scales_queries: whether queries beyond the original context are scaled by their position, which our
            forward pass does not do.
    """

    model_type: str
    attention_norm: str = "input_layernorm"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    query_norm: str | None = None
    key_norm: str | None = None
    attention_post_norm: str | None = None
    ffn_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    ffn_post_norm: str | None = None
    biased: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    activation_field: str = "hidden_act"
    norm_offset: float = 0.0
    multipliers: Callable[[Any], Multipliers] = _of_none
    partial_rotary: bool = False
    must_be_off: tuple[str, ...] = ()
    scales_queries: bool = False

    def layer_tensor(self, layer: int, module: str, kind: str = "weight") -> str:
        """The full tensor name of a module of one layer."""
        return f"{self.layers}.{layer}.{module}.{kind}"


def _of_granite(config: Any) -> Multipliers:
    return Multipliers(
        embedding=config.embedding_multiplier,
        attention=config.attention_multiplier,
        residual=config.residual_multiplier,
        logits=1.0 / config.logits_scaling,
    )


def _of_gemma(config: Any) -> Multipliers:
    return Multipliers(embedding=config.hidden_size**0.5, attention=config.query_pre_attn_scalar**-0.5)


_QKV = frozenset({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
_ATTENTION = _QKV | {"self_attn.o_proj"}
_FFN = frozenset({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
_Q_NORM, _K_NORM = "self_attn.q_norm", "self_attn.k_norm"

FAMILIES: dict[str, ModelFamily] = {
    family.model_type: family
    for family in (
        ModelFamily("llama", biased=_ATTENTION | _FFN),
        ModelFamily("mistral"),
        ModelFamily("qwen2", biased=_QKV),
        ModelFamily("qwen3", biased=_ATTENTION, query_norm=_Q_NORM, key_norm=_K_NORM),
        ModelFamily("smollm3", biased=_ATTENTION | _FFN),
        ModelFamily("granite", biased=_ATTENTION | _FFN, multipliers=_of_granite),
        ModelFamily("ministral3", scales_queries=True),
        ModelFamily(
            "phi3",
            partial_rotary=True,
            fused={
                "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
            },
        ),
        ModelFamily(
            "gemma3_text",
            biased=_ATTENTION,
            query_norm=_Q_NORM,
            key_norm=_K_NORM,
            attention_post_norm="post_attention_layernorm",
            ffn_norm="pre_feedforward_layernorm",
            ffn_post_norm="post_feedforward_layernorm",
            activation="gelu_tanh",
            activation_field="hidden_activation",
            norm_offset=1.0,
            multipliers=_of_gemma,
            must_be_off=(
                "attn_logit_softcapping",
                "final_logit_softcapping",
                "use_bidirectional_attention",
            ),
        ),
    )
}

_ACTIVATION_NAMES = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}


def family_of(model_type: str) -> ModelFamily:
    """The row of a model type.

    Raises:
        UnsupportedModel: no such row; names those that exist.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModel("model", model_type, f"supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def check_variant(family: ModelFamily, config: Any, reference: str) -> None:
    """Check that a model is no variant of its family that the row does not describe.

    Raises:
        UnsupportedModel: it is; names the field.
    """
    wanted = _ACTIVATION_NAMES[family.activation]
    activation = getattr(config, family.activation_field, wanted)
    if activation != wanted:
        reason = f"activation {activation}; only {wanted} is supported for {family.model_type}"
        raise UnsupportedModel("model", reference, reason)
    for name in family.must_be_off:
        if value := getattr(config, name, None):
            raise UnsupportedModel("model", reference, f"{name} is {value}; not supported unless it is off")


def longest_window(config: Any, family: ModelFamily | None) -> int | None:
    """The most tokens that a window may have; None where the config does not say."""
    limits = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    if family and family.scales_queries and rope.get("llama_4_scaling_beta"):
        limits.append(rope.get("original_max_position_embeddings"))
    known = [limit for limit in limits if isinstance(limit, int)]
    return min(known, default=None)
