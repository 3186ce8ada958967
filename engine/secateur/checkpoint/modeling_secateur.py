"""A causal language model whose layers differ in width, or lack a sub-block.

This file travels inside checkpoints (``trust_remote_code=True``) and imports only torch, transformers
and its sibling. It adds no computation: the model is the dense family's own model class, with each
decoder layer built for its own widths and removed sub-blocks put out of action. Masks, rotary
embedding, sliding window and key/value cache are therefore exactly the family's.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from .configuration_secateur import WIDTHS, SecateurConfig


class DecoderClasses(NamedTuple):
    """The classes of a dense family that a pruned model is put together from."""

    causal: type[PreTrainedModel]
    model: type[PreTrainedModel]
    layer: type[nn.Module]


# model type -> transformers' folder of it, and what the names of its classes and of its model begin with
_NAMES = {
    "llama": ("llama", "Llama", "Llama"),
    "mistral": ("mistral", "Mistral", "Mistral"),
    "ministral3": ("ministral3", "Ministral3", "Ministral3"),
    "qwen2": ("qwen2", "Qwen2", "Qwen2"),
    "qwen3": ("qwen3", "Qwen3", "Qwen3"),
    "smollm3": ("smollm3", "SmolLM3", "SmolLM3"),
    "granite": ("granite", "Granite", "Granite"),
    "phi3": ("phi3", "Phi3", "Phi3"),
    "gemma3_text": ("gemma3", "Gemma3", "Gemma3Text"),
}


def decoder_classes(model_type: str) -> DecoderClasses:
    """The classes of a family; imported when asked for, as older transformers lack some of them."""
    folder, name, model_name = _NAMES[model_type]
    module = import_module(f"transformers.models.{folder}.modeling_{folder}")
    parts = (f"{name}ForCausalLM", f"{model_name}Model", f"{name}DecoderLayer")
    return DecoderClasses(*(getattr(module, part) for part in parts))


# The norms of a layer's attention, and those of its FFN.
_PRE_NORMS = (("input_layernorm",), ("post_attention_layernorm",))
_NORMS = {
    "gemma3_text": (
        ("input_layernorm", "post_attention_layernorm"),
        ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
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
    """The pruned model; what is inherited from Llama (head, tying, generation) is common to all families."""

    config_class = SecateurConfig

    def __init__(self, config: SecateurConfig) -> None:
        # Not LlamaForCausalLM's: that would build the dense model first.
        super(LlamaForCausalLM, self).__init__(config)
        self.model = _pruned_model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """The family's own, which may scale its logits."""
        return decoder_classes(self.config.base_model_type).causal.forward(
            self,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """As every model's; from now on caches are all that the config is asked about."""
        self.config._batches_continuously = True
        return super().init_continuous_batching(*args, **kwargs)


def _pruned_model(config: SecateurConfig) -> PreTrainedModel:
    """The family's model class with this config's decoder layers in place of the dense ones."""
    family = decoder_classes(config.base_model_type)
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
    norms = _NORMS.get(config.base_model_type, _PRE_NORMS)
    if "attention" in layer_config.skip:
        layer.self_attn = NoAttention()
        _leave_out(layer, norms[0])
    else:
        layer.self_attn.layer_idx = cache_slot
        layer.self_attn.config = _LayerView(config, layer_config)
    if "mlp" in layer_config.skip:
        layer.mlp = NoMLP()
        _leave_out(layer, norms[1])
    return layer


class _LayerView:
    """A config as one layer's attention reads it at every call: its own widths, all else the model's.

    So is the name of its kernel: set_attn_implementation() reaches it.
    """

    def __init__(self, config: SecateurConfig, layer_config: Any) -> None:
        self._config = config
        self._widths = {name: getattr(layer_config, name) for name in WIDTHS}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_config", "_widths"):  # while it is being copied
            raise AttributeError(name)
        return self._widths[name] if name in self._widths else getattr(self._config, name)


def _leave_out(layer: nn.Module, norms: tuple[str, ...]) -> None:
    for name in norms:
        setattr(layer, name, nn.Identity())
