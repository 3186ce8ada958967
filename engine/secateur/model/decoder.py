"""A decoder model as immutable sub-blocks of tensors, dense or slim.

Widths are read from the tensors themselves, so a slim checkpoint loads through the same door: a
sub-block whose tensors are absent is None. Nothing here is ever modified in place; cutting and
permuting make new values that share storage where they can.

Shape suffixes: V vocabulary, H hidden, Q query channels (query heads x head_dim), K key/value
channels (KV groups x head_dim), C FFN channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from secateur.errors import BrokenCheckpoint
from secateur.model.architecture import Architecture, Kind
from secateur.model.families import ModelFamily, Multipliers, check_variant, family_of
from secateur.model.layout import Layout


@dataclass(frozen=True)
class AttentionWeights:
    """Attention half of a layer. Heads are stored group by group, as the families store them."""

    norm_H: Tensor
    query_QH: Tensor
    key_KH: Tensor
    value_KH: Tensor
    output_HQ: Tensor
    query_bias_Q: Tensor | None = None
    key_bias_K: Tensor | None = None
    value_bias_K: Tensor | None = None
    output_bias_H: Tensor | None = None
    query_norm_D: Tensor | None = None
    key_norm_D: Tensor | None = None
    post_norm_H: Tensor | None = None


@dataclass(frozen=True)
class FfnWeights:
    """FFN half of a layer (SwiGLU or GeGLU)."""

    norm_H: Tensor
    gate_CH: Tensor
    up_CH: Tensor
    down_HC: Tensor
    gate_bias_C: Tensor | None = None
    up_bias_C: Tensor | None = None
    down_bias_H: Tensor | None = None
    post_norm_H: Tensor | None = None


SubBlock = AttentionWeights | FfnWeights
Block = TypeVar("Block", bound=AttentionWeights | FfnWeights)


@dataclass(frozen=True)
class DecoderLayer:
    """One decoder layer; a removed sub-block is None."""

    attention: AttentionWeights | None
    ffn: FfnWeights | None

    def sub_block(self, kind: Kind) -> SubBlock | None:
        """The half of the layer that `kind` names."""
        return self.attention if kind == "attention" else self.ffn


@dataclass(frozen=True)
class DecoderModel:
    """A decoder language model.

    Attributes:
        config: the transformers config it was loaded with.
        family: where its tensors are called what.
        head_dim: channels per head.
        queries_per_group: query heads that share one key/value head (a KV group).
        layers: a tuple, or layers that come to a device when they are asked for (`streaming`).
        head_VH: the output head; the embedding itself when tied.
    """

    config: Any
    family: ModelFamily
    head_dim: int
    queries_per_group: int
    embedding_VH: Tensor
    layers: Sequence[DecoderLayer]
    final_norm_H: Tensor
    head_VH: Tensor
    tied: bool

    @property
    def multipliers(self) -> Multipliers:
        """What the forward pass multiplies by."""
        return self.family.multipliers(self.config)

    @property
    def num_layers(self) -> int:
        """Decoder layers, removed ones included."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.embedding_VH.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding_VH.dtype

    def width(self, layer: int, kind: Kind) -> int:
        """KV groups or channels of a sub-block; 0 when it is removed."""
        block = self.layers[layer].sub_block(kind)
        if block is None:
            return 0
        if isinstance(block, AttentionWeights):
            return block.key_KH.shape[0] // self.head_dim
        return block.gate_CH.shape[0]

    @property
    def device(self) -> torch.device:
        return self.embedding_VH.device

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> DecoderModel:
        """The same model with every tensor in `dtype` and on `device`; None leaves it as it is."""

        def convert(tensor: Tensor) -> Tensor:
            return tensor.to(device or tensor.device, dtype or tensor.dtype)

        embedding = convert(self.embedding_VH)
        return replace(
            self,
            embedding_VH=embedding,
            layers=tuple(map_layer(layer, convert) for layer in self.layers),
            final_norm_H=convert(self.final_norm_H),
            head_VH=embedding if self.tied else convert(self.head_VH),
        )


def architecture_of(model: DecoderModel) -> Architecture:
    """The architecture that a model has."""
    layers = range(model.num_layers)
    return Architecture(
        tuple(model.width(layer, "attention") for layer in layers),
        tuple(model.width(layer, "ffn") for layer in layers),
    )


def tensors_of(block: SubBlock) -> dict[str, Tensor]:
    """The tensors of a sub-block by field name, absent ones left out."""
    values = ((field.name, getattr(block, field.name)) for field in fields(block))
    return {name: tensor for name, tensor in values if tensor is not None}


def map_block(block: Block, change: Callable[[Tensor], Tensor]) -> Block:
    """A sub-block with `change` applied to every tensor."""
    changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors_of(block).items()}
    return replace(block, **changed)


def map_layer(layer: DecoderLayer, change: Callable[[Tensor], Tensor]) -> DecoderLayer:
    """A layer with `change` applied to every tensor."""
    return DecoderLayer(
        attention=map_block(layer.attention, change) if layer.attention else None,
        ffn=map_block(layer.ffn, change) if layer.ffn else None,
    )


_ATTENTION_FIELDS = {
    "norm_H": ("attention_norm", "weight"),
    "query_QH": ("query", "weight"),
    "key_KH": ("key", "weight"),
    "value_KH": ("value", "weight"),
    "output_HQ": ("output", "weight"),
    "query_bias_Q": ("query", "bias"),
    "key_bias_K": ("key", "bias"),
    "value_bias_K": ("value", "bias"),
    "output_bias_H": ("output", "bias"),
    "query_norm_D": ("query_norm", "weight"),
    "key_norm_D": ("key_norm", "weight"),
    "post_norm_H": ("attention_post_norm", "weight"),
}
_FFN_FIELDS = {
    "norm_H": ("ffn_norm", "weight"),
    "gate_CH": ("gate", "weight"),
    "up_CH": ("up", "weight"),
    "down_HC": ("down", "weight"),
    "gate_bias_C": ("gate", "bias"),
    "up_bias_C": ("up", "bias"),
    "down_bias_H": ("down", "bias"),
    "post_norm_H": ("ffn_post_norm", "weight"),
}
# class of the sub-block -> its field -> (attribute of the family row, what of that module)
_FIELDS = {AttentionWeights: _ATTENTION_FIELDS, FfnWeights: _FFN_FIELDS}


def base_model_type(config: Any) -> str:
    """The family key of a config: a slim checkpoint's is that of the model it was cut from."""
    return getattr(config, "base_model_type", None) or config.model_type


def dense_config(config: Any) -> Any:
    """The config of the dense model: of a slim checkpoint, that of the model it was cut from."""
    return config.dense_config() if base_model_type(config) != config.model_type else config


def build_model(config: Any, tensors: Mapping[str, Tensor], reference: str) -> DecoderModel:
    """The model made of a config and its named tensors.

    Args:
        config: transformers config of a supported family, or of a slim checkpoint.
        tensors: weights by their Hugging Face names.
        reference: how the user called the model, for messages.

    Raises:
        UnsupportedModel: the family, or this variant of it, is not supported.
        BrokenCheckpoint: tensors are missing or left over.
    """
    family = family_of(base_model_type(config))
    check_variant(family, config, reference)
    layout = _layout(family, config)
    remaining = layout.engine(tensors)

    def take(name: str) -> Tensor:
        if name not in remaining:
            raise BrokenCheckpoint("model", reference, f"tensor {name} is missing")
        return remaining.pop(name)

    embedding = take(f"{family.embedding}.weight")
    head_name = f"{family.head}.weight"
    tied = head_name not in remaining and bool(config.tie_word_embeddings)
    layers = tuple(
        DecoderLayer(
            _take_block(AttentionWeights, family, index, remaining, reference),
            _take_block(FfnWeights, family, index, remaining, reference),
        )
        for index in range(config.num_hidden_layers)
    )
    model = DecoderModel(
        config=config,
        family=family,
        head_dim=layout.head_dim,
        queries_per_group=layout.queries_per_group,
        embedding_VH=embedding,
        layers=layers,
        final_norm_H=take(f"{family.final_norm}.weight"),
        head_VH=embedding if tied else take(head_name),
        tied=tied,
    )
    leftover = [name for name in remaining if not name.endswith("rotary_emb.inv_freq")]
    if leftover:
        raise BrokenCheckpoint(
            "model", reference, f"unexpected tensor {leftover[0]} ({len(leftover)} in all)"
        )
    return model


def named_tensors(model: DecoderModel) -> dict[str, Tensor]:
    """The inverse of `build_model`: every tensor by its Hugging Face name."""
    family = model.family
    tensors = {f"{family.embedding}.weight": model.embedding_VH}
    for index, layer in enumerate(model.layers):
        for block in (layer.attention, layer.ffn):
            for field, tensor in tensors_of(block).items() if block else ():
                role, part = _FIELDS[type(block)][field]
                tensors[family.layer_tensor(index, getattr(family, role), part)] = tensor
    tensors[f"{family.final_norm}.weight"] = model.final_norm_H
    if not model.tied:
        tensors[f"{family.head}.weight"] = model.head_VH
    return _layout(family, model.config).stored(tensors)


def _take_block(
    block_class: type[Block], family: ModelFamily, layer: int, remaining: dict[str, Tensor], reference: str
) -> Block | None:
    """A sub-block of the tensors that are its own, taken out of `remaining`; None where there are none."""
    tensors: dict[str, Tensor] = {}
    for field, (role, part) in _FIELDS[block_class].items():
        module = getattr(family, role)
        if module is None or (part == "bias" and module not in family.biased):
            continue
        name = family.layer_tensor(layer, module, part)
        if name in remaining:
            tensors[field] = remaining.pop(name)
    if not tensors:
        return None
    required = (field.name for field in fields(block_class) if field.default is MISSING)
    missing = [name for name in required if name not in tensors]
    if missing:
        half = "attention" if block_class is AttentionWeights else "ffn"
        raise BrokenCheckpoint("model", reference, f"layer {layer} {half} lacks {', '.join(missing)}")
    return block_class(**tensors)


def _layout(family: ModelFamily, config: Any) -> Layout:
    head_dim = _head_dim(config)
    factor = config.rope_parameters.get("partial_rotary_factor", 1.0) if family.partial_rotary else 1.0
    turned = int(head_dim * factor)
    return Layout(family.fused, (family.query, family.key), turned, head_dim, _queries_per_group(config))


def _head_dim(config: Any) -> int:
    explicit = getattr(config, "head_dim", None)
    return int(explicit or config.hidden_size // config.num_attention_heads)


def _queries_per_group(config: Any) -> int:
    """Whole groups are cut, so every layer that still has attention agrees."""
    if base_model_type(config) != config.model_type:
        config = next(layer for layer in config.per_layer_config if "attention" not in layer.skip)
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(config.num_attention_heads // groups)
