"""A model as a GGUF file that llama.cpp loads, whatever the widths of its layers.

Shapes that are the same everywhere are written as the family's own architecture. For the others, llama.cpp
has two whose layers may differ, with a list in the header for each width: ``deci`` (Llama with removed
attention, made for Nemotron) and ``openelm`` (norms on queries and keys). What they cannot leave out stays
in the file as zeros, which add nothing: in ``deci`` the FFN of a layer that keeps its attention, whose
output llama.cpp would drop with it, and the attention of the first layer, which it asks for the size of a
head; in ``openelm`` either half.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.checkpoint.completeness import check_range
from secateur.checkpoint.gguf_file import LAYER_NAMES, ROPE_FACTORS, TOP_NAMES
from secateur.checkpoint.gguf_tokenizer import add_tokenizer
from secateur.errors import UnsupportedModel
from secateur.model.decoder import (
    AttentionWeights,
    DecoderLayer,
    DecoderModel,
    FfnWeights,
    dense_config,
    named_tensors,
)

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

    from secateur.checkpoint.source import ModelSource

# llama.cpp's name of the family; Mistral is a Llama to it.
UNIFORM = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
PER_LAYER = {"llama": "deci", "mistral": "deci", "qwen2": "deci", "qwen3": "openelm"}
INTERLEAVED = ("llama", "deci")
"""Architectures whose rotary embedding turns neighbours; in a checkpoint it turns one half with the other."""

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # general.file_type, for those who list a file
ZERO_CHANNELS = 32  # of an FFN that is only there to be zero: the least that llama.cpp's kernels take well
GGUF_NAMES = {theirs: name for name, theirs in {**TOP_NAMES, **LAYER_NAMES}.items()}
QKV = ("query", "key", "value")


@dataclass(frozen=True)
class GgufModel:
    """A model as an architecture of llama.cpp: layers that are empty dropped, zeros where it wants something.

    Attributes:
        architecture: llama.cpp's name.
        per_layer: whether widths are lists.
    """

    model: DecoderModel
    architecture: str
    per_layer: bool


def gguf_model(model: DecoderModel, reference: object) -> GgufModel:
    """The architecture that holds the shape of a model.

    Raises:
        UnsupportedModel: none does.
    """
    family = model.family.model_type
    if family not in UNIFORM:
        known = ", ".join(UNIFORM)
        raise UnsupportedModel("model", reference, f"GGUF files are written of {known}, not of {family}")
    config = dense_config(model.config)
    window, context = getattr(config, "sliding_window", None), config.max_position_embeddings
    if getattr(config, "use_sliding_window", True) and window is not None and window < context:
        reason = f"attention within {window} tokens: llama.cpp knows no such window for {family}"
        raise UnsupportedModel("model", reference, reason)
    kept = tuple(layer for layer in model.layers if layer.attention or layer.ffn)
    shorter = replace(model, layers=kept)
    widths = {(shorter.width(i, "attention"), shorter.width(i, "ffn")) for i in range(len(kept))}
    if len(widths) == 1 and all(min(widths)) and not _lacks_heads(shorter):
        return GgufModel(shorter, UNIFORM[family], False)
    architecture = PER_LAYER[family]
    if architecture == "openelm" and not model.tied:
        reason = "layers that differ, and a head of its own: llama.cpp has no architecture with both and with"
        raise UnsupportedModel("model", reference, f"{reason} the norms of {family}")
    if architecture == "openelm" and any(name.endswith(".bias") for name in named_tensors(model)):
        raise UnsupportedModel("model", reference, f"biases in a {family} whose layers differ")
    needs_attention = [architecture == "openelm" or index == 0 for index in range(len(kept))]
    filled = tuple(_filled(layer, model, needs) for layer, needs in zip(kept, needs_attention, strict=True))
    return GgufModel(replace(model, layers=filled), architecture, True)


def write_gguf(shaped: GgufModel, source: ModelSource, file: Path, dtype: str) -> None:
    """Write a GGUF file, tensor after tensor.

    Args:
        source: where the model came from: tokenizer and vocabulary.
        dtype: of the matrices, one of `DTYPES`; the rest is float32.

    Raises:
        UnsupportedModel: llama.cpp has no rotary scaling or tokenizer that is the same.
        BadInput: a weight is too large for `dtype`.
    """
    from gguf import GGUFWriter

    check_range(named_tensors(shaped.model), DTYPES[dtype])
    writer = GGUFWriter(file, shaped.architecture)
    for key, value in _header(shaped, source.reference).items():
        _add(writer, f"{shaped.architecture}.{key}", value)
    writer.add_name(Path(source.reference).name)
    writer.add_file_type(FILE_TYPES[dtype])
    add_tokenizer(writer, source.tokenizer(), shaped.model.embedding_VH.shape[0], source.reference)
    _write_tensors(writer, dict(_tensors(shaped)), dtype)


def gguf_bytes(shaped: GgufModel, dtype: str) -> int:
    """Bytes of all tensors of a file."""
    return sum(
        tensor.numel() * _stored_dtype(tensor, dtype).itemsize
        for tensor in named_tensors(shaped.model).values()
    )


def _lacks_heads(model: DecoderModel) -> bool:
    """Whether a Qwen2 has fewer heads than llama.cpp takes for granted."""
    if model.family.model_type != "qwen2":
        return False
    heads = model.width(0, "attention") * model.queries_per_group
    return heads * model.head_dim != model.hidden_size


def _filled(layer: DecoderLayer, model: DecoderModel, needs_attention: bool) -> DecoderLayer:
    """A layer with zeros for what the architecture cannot leave out."""
    hidden, dtype = model.hidden_size, model.dtype
    ones = torch.ones(hidden, dtype=dtype)
    attention, ffn = layer.attention, layer.ffn
    if ffn is None:
        wide = torch.zeros(ZERO_CHANNELS, hidden, dtype=dtype)
        ffn = FfnWeights(ones, wide, wide, wide.T.contiguous())
    if attention is None and needs_attention:
        group = torch.zeros(model.head_dim, hidden, dtype=dtype)
        queries = group.repeat(model.queries_per_group, 1)
        norm = torch.ones(model.head_dim, dtype=dtype) if model.family.query_norm else None
        attention = AttentionWeights(
            ones, queries, group, group, queries.T.contiguous(), query_norm_D=norm, key_norm_D=norm
        )
    return DecoderLayer(attention, ffn)


def _header(shaped: GgufModel, reference: object) -> dict[str, Any]:
    """The keys of the architecture, without its name."""
    model = shaped.model
    config = dense_config(model.config)
    layers = range(model.num_layers)
    groups = [model.width(layer, "attention") for layer in layers]
    widths = {
        "attention.head_count": [width * model.queries_per_group for width in groups],
        "attention.head_count_kv": groups,
        "feed_forward_length": [model.width(layer, "ffn") for layer in layers],
    }
    return {
        "block_count": model.num_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": model.hidden_size,
        "vocab_size": model.embedding_VH.shape[0],
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "rope.dimension_count": model.head_dim,
        **{key: values if shaped.per_layer else values[0] for key, values in widths.items()},
        **_rope(config.rope_parameters, reference),
    }


def _rope(rope: Mapping[str, Any], reference: object) -> dict[str, Any]:
    """The keys of the rotary embedding; Llama 3's factors are a tensor."""
    kind = rope["rope_type"]
    keys: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if kind in ("default", "llama3"):
        return keys
    if kind not in ("linear", "yarn"):
        reason = f"rotary scaling {kind}: written are default, linear, yarn and llama3"
        raise UnsupportedModel("model", reference, reason)
    factor = float(rope["factor"])
    keys |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "linear":
        return keys
    usual = 0.1 * math.log(max(factor, 1)) + 1
    odd = [name for name in ("mscale", "mscale_all_dim") if rope.get(name)]
    odd += ["attention_factor"] if not math.isclose(rope.get("attention_factor") or usual, usual) else []
    odd += ["truncate"] if rope.get("truncate", True) is not True else []
    if odd:
        raise UnsupportedModel("model", reference, f"YaRN's {odd[0]} of a value that llama.cpp does not have")
    keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    for name in ("beta_fast", "beta_slow"):
        if rope.get(name) is not None:
            keys[f"rope.scaling.yarn_{name}"] = float(rope[name])
    return keys


def _tensors(shaped: GgufModel) -> Iterator[tuple[str, Tensor]]:
    """Tensors by llama.cpp's names, as it wants them."""
    model = shaped.model
    if (rope := dense_config(model.config).rope_parameters)["rope_type"] == "llama3":
        yield ROPE_FACTORS, torch.from_numpy(llama3_factors(rope, model.head_dim))
    interleave = shaped.architecture in INTERLEAVED
    named = named_tensors(model)
    for name, tensor in named.items():
        stem, _, kind = name.rpartition(".")
        if not stem.startswith(f"{model.family.layers}."):
            yield f"{GGUF_NAMES[stem]}.{kind}", tensor
            continue
        layer, _, part = stem.removeprefix(f"{model.family.layers}.").partition(".")
        if part in (model.family.query, model.family.key) and interleave:
            tensor = interleaved(tensor, model.head_dim)
        theirs = GGUF_NAMES[part]
        if shaped.architecture == "openelm" and part in (model.family.key, model.family.value):
            continue
        if shaped.architecture == "openelm" and part == model.family.query:
            names = (model.family.layer_tensor(int(layer), getattr(model.family, role)) for role in QKV)
            theirs, tensor = "attn_qkv", torch.cat([named[each] for each in names])
        yield f"blk.{layer}.{theirs}.{kind}", tensor


def interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows with the two rotary halves of each head taken in turn.

    Args:
        rows: [heads x head_dim, ...].
    """
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(rows.shape)


def llama3_factors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """By what Llama 3's scaling divides each of the head_dim / 2 frequencies, in float32."""
    import numpy as np

    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    wavelengths = 2 * math.pi * rope["rope_theta"] ** exponents.astype(np.float64)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    turns = rope["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _stored_dtype(tensor: Tensor, dtype: str) -> torch.dtype:
    return DTYPES[dtype] if tensor.ndim > 1 else torch.float32


def _write_tensors(writer: GGUFWriter, tensors: Mapping[str, Tensor], dtype: str) -> None:
    """The header, then every tensor: one at a time is converted."""
    import numpy as np
    from gguf import GGMLQuantizationType

    for name, tensor in tensors.items():
        stored = _stored_dtype(tensor, dtype)
        kind = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}[stored]
        bits = np.dtype(np.float32 if stored.itemsize == 4 else np.float16)
        writer.add_tensor_info(
            name,
            list(tensor.shape),
            bits,
            tensor.numel() * stored.itemsize,
            raw_dtype=GGMLQuantizationType[kind],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        converted = tensor.to(_stored_dtype(tensor, dtype)).contiguous()
        writer.write_tensor_data(converted.view(torch.uint8).numpy())
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)
