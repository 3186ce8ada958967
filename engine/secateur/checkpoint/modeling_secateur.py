"""A causal language model whose layers differ in width, or lack a sub-block.

This file travels inside checkpoints (``trust_remote_code=True``) and imports only torch, transformers
and its sibling. It adds no computation: the model is the dense family's own model class, with each
decoder layer built for its own widths and removed sub-blocks put out of action. Masks, rotary
embedding, sliding window and key/value cache are therefore exactly the family's.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from transformers import LlamaForCausalLM, LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaPreTrainedModel
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from .configuration_secateur import SecateurConfig


class DecoderClasses(NamedTuple):
    """The classes of a dense family that a pruned model is put together from."""

    model: type[PreTrainedModel]
    layer: type[nn.Module]


DECODER_CLASSES = {
    "llama": DecoderClasses(LlamaModel, LlamaDecoderLayer),
    "mistral": DecoderClasses(MistralModel, MistralDecoderLayer),
    "qwen2": DecoderClasses(Qwen2Model, Qwen2DecoderLayer),
    "qwen3": DecoderClasses(Qwen3Model, Qwen3DecoderLayer),
}


class NoAttention(nn.Module):
    """Stands where attention was removed: adds nothing to the residual stream, caches nothing."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return hidden_states.new_zeros(()), None


class NoMLP(nn.Module):
    """Stands where the FFN was removed: adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.new_zeros(())


class _NeedsPlugin:
    """What vLLM asks a class of a checkpoint when it knows no class of that name itself."""

    @classmethod
    def is_backend_compatible(cls) -> bool:
        """VLLM's transformers backend builds all layers alike.

        Raises:
            ImportError: always; says what to install.
        """
        raise ImportError(
            "vLLM serves a checkpoint pruned by secateur where the package secateur is installed beside it; "
            "if VLLM_PLUGINS is set, it must contain secateur"
        )


class SecateurModel(_NeedsPlugin, LlamaPreTrainedModel):
    """The pruned model without its head: hidden states."""

    config_class = SecateurConfig
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def __init__(self, config: SecateurConfig) -> None:
        super().__init__(config)
        self.model = _pruned_model(config)
        self.post_init()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the family's model: ``last_hidden_state`` [B, T, H] and whatever else was asked for."""
        return self.model(*args, **kwargs)


class SecateurForCausalLM(_NeedsPlugin, LlamaForCausalLM):
    """The pruned model; what is inherited from Llama (head, loss, tying) is common to all families."""

    config_class = SecateurConfig

    def __init__(self, config: SecateurConfig) -> None:
        # Not LlamaForCausalLM's: that would build the dense model first.
        super(LlamaForCausalLM, self).__init__(config)
        self.model = _pruned_model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """As every model's; from now on caches are all that the config is asked about."""
        self.config._batches_continuously = True
        return super().init_continuous_batching(*args, **kwargs)


def _pruned_model(config: SecateurConfig) -> PreTrainedModel:
    """The family's model class with this config's decoder layers in place of the dense ones."""
    family = DECODER_CLASSES[config.base_model_type]
    # Rotary embeddings read the number of heads, which the pruned config refuses to name where it varies.
    layerless = config.dense_config()
    layerless.num_hidden_layers = 0
    model = family.model(layerless)
    model.config = config
    slots = {index: slot for slot, index in enumerate(config.attention_layers)}
    model.layers = nn.ModuleList(
        [_pruned_layer(family, config, index, slots.get(index)) for index in range(config.num_hidden_layers)]
    )
    return model


def _pruned_layer(
    family: DecoderClasses, config: SecateurConfig, index: int, cache_slot: int | None
) -> nn.Module:
    layer_config = config.per_layer_config[index]
    layer: Any = family.layer(layer_config, index)
    if "attention" in layer_config.skip:
        layer.self_attn = NoAttention()
        layer.input_layernorm = nn.Identity()
    else:
        layer.self_attn.layer_idx = cache_slot
        # Attention reads its kernel's name from the config at every call: one config, so that
        # set_attn_implementation() reaches it.
        layer.self_attn.config = config
    if "mlp" in layer_config.skip:
        layer.mlp = NoMLP()
        layer.post_attention_layernorm = nn.Identity()
    return layer
