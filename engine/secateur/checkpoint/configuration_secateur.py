"""The configuration of a checkpoint whose layers differ in width, or lack a sub-block.

This file travels inside such checkpoints (``trust_remote_code=True``), so it imports nothing but
transformers. Its source of truth is transformers' own ``per_layer_config``: a sparse map from layer
index to the fields in which that layer differs, plus ``skip: ["attention", "mlp"]``. Every other
field is the dense model's, by the name its family gives it, so the original shape stays readable.

A class of our own is needed because a family's configuration refuses what pruning makes (Llama's
validator wants the hidden size to be a multiple of every layer's head count).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, PreTrainedConfig

if not hasattr(PreTrainedConfig, "per_layer_config"):
    raise ImportError("a checkpoint pruned by secateur needs transformers >= 5.16 (per_layer_config)")

BASE_MODEL_TYPES = (
    "gemma3_text",
    "granite",
    "llama",
    "ministral3",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)

_AUTO_MAP = {
    "AutoConfig": "configuration_secateur.SecateurConfig",
    "AutoModel": "modeling_secateur.SecateurModel",
    "AutoModelForCausalLM": "modeling_secateur.SecateurForCausalLM",
}
# Fields of a dense config that describe the file it came from, not the model.
_NOT_INHERITED = {"model_type", "architectures", "auto_map", "transformers_version", "_name_or_path"}
# Fields of a slim config that no dense one has.
_NOT_DENSE = _NOT_INHERITED | {"base_model_type", "per_layer_config"}
_HEADS = ("num_attention_heads", "num_key_value_heads")
# Lists with an entry for each layer.
PER_LAYER_LISTS = ("layer_types", "no_rope_layers")
# Fields that differ between layers.
WIDTHS = (*_HEADS, "intermediate_size")


class SecateurConfig(PreTrainedConfig):
    """A dense family's configuration plus, per layer, what was cut away.

    Args:
        base_model_type: the dense family, one of ``BASE_MODEL_TYPES``; its fields are accepted as
            keyword arguments, with its defaults and its own validation.
        per_layer_config: layer index -> any of ``num_attention_heads``, ``num_key_value_heads``,
            ``intermediate_size`` and ``skip``. ``config.per_layer_config[i]`` is layer i's config.

    Raises:
        ValueError: unknown family, or an override that no layer can have.
    """

    model_type = "secateur"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    base_model_type: str = "llama"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.base_model_type not in BASE_MODEL_TYPES:
            raise ValueError(f"base_model_type: got {self.base_model_type!r}, not one of {BASE_MODEL_TYPES}")
        per_layer_config = kwargs.pop("per_layer_config", None) or {}
        family = CONFIG_MAPPING[self.base_model_type](**kwargs)
        names = _own_fields(type(family))
        for name in names:
            setattr(self, name, getattr(family, name))
        # Once heads are cut, hidden_size // num_attention_heads is no longer the size of a head.
        self.head_dim: int = (
            getattr(family, "head_dim", None) or family.hidden_size // family.num_attention_heads
        )
        rest = {name: value for name, value in kwargs.items() if name not in names and name != "head_dim"}
        super().__post_init__(per_layer_config=per_layer_config, **rest)
        self._check_layers()
        self._cached_layers = self._only_attention()  # made once: every step of generation asks for it

    def dense_config(self) -> PreTrainedConfig:
        """The family's own config of the dense model: for code that reads a field which varies per layer."""
        fields = {name: value for name, value in self.to_dict().items() if name not in _NOT_DENSE}
        return CONFIG_MAPPING[self.base_model_type](**fields)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> SecateurConfig:
        """For a decoder, what transformers builds key/value caches from: only the layers that have attention.

        So a cache has no slot that is never filled. Slots are counted in the order of these layers. Asked for
        no decoder, as by vLLM, it is this config; but transformers' continuous batching does not say either.
        """
        cached_layers = self.__dict__.get("_cached_layers")  # absent while the config is being made
        if cached_layers is None or not (decoder or self.__dict__.get("_batches_continuously")):
            return self
        config = copy.copy(cached_layers)
        config._attn_implementation = self._attn_implementation
        return config

    def _only_attention(self) -> SecateurConfig | None:
        """The layers that have attention, as a config; None where these are all, each with its own heads.

        Heads that all of them share are said once: continuous batching has one number for all layers.
        """
        fields = self.to_dict()
        overrides = fields.pop("per_layer_config", None) or {}
        entries = {int(index): entry for index, entry in overrides.items()}
        kept = [
            index for index in range(self.num_hidden_layers) if "attention" not in _skipped(entries, index)
        ]
        heads = {tuple(entries.get(index, {}).get(name) for name in _HEADS) for index in kept}
        shared = next(iter(heads)) if len(heads) == 1 else (None, None)
        if len(kept) == self.num_hidden_layers and shared == (None, None):
            return None
        for name, value in zip(_HEADS, shared, strict=True):
            if value is not None:
                fields[name] = value
        for name in PER_LAYER_LISTS:
            if values := fields.get(name):
                fields[name] = [values[index] for index in kept]
        fields["num_hidden_layers"] = len(kept)
        fields["per_layer_config"] = {
            slot: {name: value for name, value in entries.get(index, {}).items() if fields.get(name) != value}
            for slot, index in enumerate(kept)
        }
        return SecateurConfig(**fields)

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have attention."""
        layers = enumerate(self.per_layer_config)
        return tuple(index for index, layer in layers if "attention" not in layer.skip)

    def to_dict(self) -> dict[str, Any]:
        """As every config's; without what follows from the other fields."""
        fields = super().to_dict()
        for name in ("_cached_layers", "_batches_continuously"):
            fields.pop(name, None)
        return fields

    def validate(self) -> None:
        """Asked for before a config is saved. The family's checks read fields that vary: its own config's."""
        self.dense_config().validate()
        self._check_layers()

    def validate_rope(self) -> None:
        """As `validate`; vLLM asks for this alone, and the checks of LongRoPE read the number of heads."""
        self.dense_config().validate_rope()

    def _check_layers(self) -> None:
        for index, layer in enumerate(self.per_layer_config):
            unknown = set(layer.skip) - {"attention", "mlp"}
            if unknown:
                raise ValueError(
                    f"per_layer_config[{index}].skip: got {sorted(unknown)}: attention and mlp exist"
                )
            heads, kv_heads = layer.num_attention_heads, layer.num_key_value_heads
            if min(heads, kv_heads, layer.intermediate_size) < 1 or heads % kv_heads:
                raise ValueError(
                    f"per_layer_config[{index}]: got {heads} query heads, {kv_heads} key/value heads and "
                    f"{layer.intermediate_size} channels: widths are positive (skip removes a sub-block) and "
                    "query heads a multiple of key/value heads"
                )
        if all("attention" in layer.skip for layer in self.per_layer_config):
            raise ValueError("per_layer_config: every layer skips attention: at least one must keep it")


def slim_config(
    base_config: PreTrainedConfig, groups: Sequence[int], channels: Sequence[int]
) -> SecateurConfig:
    """Describe a dense model cut to a per-layer shape.

    Args:
        base_config: the dense model's config; its family is one of ``BASE_MODEL_TYPES``.
        groups: KV groups kept in each layer, 0 = attention removed.
        channels: FFN channels kept in each layer, 0 = FFN removed.

    Returns:
        A config that ``save_pretrained`` writes as the checkpoint's ``config.json``.

    Raises:
        ValueError: a width outside 0..dense, or one entry per layer not given.
    """
    _check_shape(base_config, groups, channels)
    queries = base_config.num_attention_heads // base_config.num_key_value_heads
    fields = {name: value for name, value in base_config.to_dict().items() if name not in _NOT_INHERITED}
    fields |= {
        "base_model_type": base_config.model_type,
        "architectures": ["SecateurForCausalLM"],
        "auto_map": dict(_AUTO_MAP),
        "per_layer_config": {
            index: _overrides(kept_groups, kept_channels, queries)
            for index, (kept_groups, kept_channels) in enumerate(zip(groups, channels, strict=True))
        },
    }
    return SecateurConfig(**fields)


def stock_config(
    base_config: PreTrainedConfig, groups: Sequence[int], channels: Sequence[int]
) -> PreTrainedConfig | None:
    """The family's own config for a uniform shape, or None where the stock classes cannot hold it.

    None for shapes that differ between layers or lack a sub-block; for Llama head counts that do not
    divide the hidden size (its validator refuses them); for Qwen2 with fewer heads (vLLM's Qwen2
    ignores ``head_dim`` and divides the hidden size by the head count instead). Use `slim_config` then.
    """
    _check_shape(base_config, groups, channels)
    if len(set(zip(groups, channels, strict=True))) != 1 or not (groups[0] and channels[0]):
        return None
    dense_heads, dense_groups = base_config.num_attention_heads, base_config.num_key_value_heads
    heads = groups[0] * (dense_heads // dense_groups)
    if base_config.model_type in ("llama", "gemma3_text") and base_config.hidden_size % heads:
        return None
    if base_config.model_type == "qwen2" and heads != dense_heads:
        return None
    config = copy.deepcopy(base_config)
    if base_config.model_type != "qwen2":
        config.head_dim = getattr(base_config, "head_dim", None) or base_config.hidden_size // dense_heads
    config.num_key_value_heads = groups[0]
    config.num_attention_heads = heads
    config.intermediate_size = channels[0]
    return config


def _overrides(groups: int, channels: int, queries: int) -> dict[str, Any]:
    """One layer's entry of ``per_layer_config``; transformers drops what equals the global value."""
    entry: dict[str, Any] = {}
    if groups:
        entry |= {"num_attention_heads": groups * queries, "num_key_value_heads": groups}
    if channels:
        entry["intermediate_size"] = channels
    skip = [name for name, width in (("attention", groups), ("mlp", channels)) if not width]
    if skip:
        entry["skip"] = skip
    return entry


def _check_shape(config: PreTrainedConfig, groups: Sequence[int], channels: Sequence[int]) -> None:
    if config.model_type not in BASE_MODEL_TYPES:
        raise ValueError(f"model_type: got {config.model_type!r}, not one of {BASE_MODEL_TYPES}")
    for name, widths, dense in (
        ("groups", groups, config.num_key_value_heads),
        ("channels", channels, config.intermediate_size),
    ):
        if len(widths) != config.num_hidden_layers:
            raise ValueError(f"{name}: got {len(widths)} entries for {config.num_hidden_layers} layers")
        outside = [width for width in widths if not 0 <= width <= dense]
        if outside:
            raise ValueError(f"{name}: got {outside[0]}, allowed are 0 to {dense}")


def _skipped(entries: dict[int, dict[str, Any]], index: int) -> Sequence[str]:
    """The sub-blocks that a layer lacks."""
    return entries.get(index, {}).get("skip") or ()


def _own_fields(family: type[PreTrainedConfig]) -> set[str]:
    """Names of the fields that a family adds to those every config has."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {field.name for field in dataclasses.fields(family)} - common
