"""What each model family calls its parts: one row per family, no code per family.

A row says where the tensors of the two sub-blocks are and which of them may carry a bias. All
families here share the pre-norm decoder layout (norm, attention, residual; norm, SwiGLU FFN,
residual); whatever deviates from it must be refused, not guessed (`UnsupportedModel`).
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import UnsupportedModel


@dataclass(frozen=True)
class ModelFamily:
    """Tensor names of one family, relative to a layer (``model.layers.N.``) unless said.

    Attributes:
        model_type: the key in ``config.json``.
        attention_norm, query, key, value, output: module names of the attention sub-block.
        query_norm, key_norm: per-head norms on queries and keys, or None.
        ffn_norm, gate, up, down: module names of the FFN sub-block.
        biased: modules that may carry a ``.bias`` beside their ``.weight``.
        embedding, final_norm, head: module names from the root.
    """

    model_type: str
    attention_norm: str = "input_layernorm"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    query_norm: str | None = None
    key_norm: str | None = None
    ffn_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    biased: frozenset[str] = frozenset()
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    def layer_tensor(self, layer: int, module: str, kind: str = "weight") -> str:
        """The full tensor name of a module of one layer."""
        return f"{self.layers}.{layer}.{module}.{kind}"


_QKV = frozenset({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
_ATTENTION = _QKV | {"self_attn.o_proj"}
_FFN = frozenset({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})

FAMILIES: dict[str, ModelFamily] = {
    family.model_type: family
    for family in (
        ModelFamily("llama", biased=_ATTENTION | _FFN),
        ModelFamily("mistral"),
        ModelFamily("qwen2", biased=_QKV),
        ModelFamily("qwen3", biased=_ATTENTION, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
    )
}


def family_of(model_type: str) -> ModelFamily:
    """The row of a model type.

    Raises:
        UnsupportedModel: no such row; names those that exist.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModel("model", model_type, f"supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]
