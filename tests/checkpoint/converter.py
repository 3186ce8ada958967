"""A folder as a GGUF file: the keys and tensors that llama.cpp's ``convert_hf_to_gguf.py`` writes for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedConfig

from secateur.checkpoint.gguf_file import LAYER_NAMES, TOP_NAMES
from secateur.checkpoint.source import ModelSource, open_source

GGUF_NAMES = {theirs: name for name, theirs in {**TOP_NAMES, **LAYER_NAMES}.items()}


def write_gguf(
    folder: Path,
    file: Path,
    architecture: str | None = None,
    *,
    tensors: Mapping[str, np.ndarray] | None = None,
    quantised: gguf.GGMLQuantizationType | None = None,
    split: int = 0,
    extra_tokens: Sequence[str] = (),
    **fields: object,
) -> Path:
    """Write ``folder`` as a GGUF file of 32-bit floats.

    Args:
        architecture: another one than the converter's.
        tensors: more tensors, or others.
        quantised: the type of the matrices.
        split: tensors in a part, after a first part that has the header alone; 0 writes one file.
        extra_tokens: more tokens, without a row in the embedding.
        fields: other values of the architecture's keys, dots written as two underscores; None leaves one out.
    """
    source = open_source(folder)
    config = source.config
    theirs = "llama" if config.model_type == "mistral" else config.model_type
    writer = gguf.GGUFWriter(
        file, architecture or theirs, split_max_tensors=split, small_first_shard=split > 0
    )
    given = {key.replace("__", "."): value for key, value in fields.items()}
    for key, value in ({**header_fields(config), **given}).items():
        if value is not None:
            add(writer, f"{architecture or theirs}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    vocabulary = source.tokenizer().get_vocab()
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__) + list(extra_tokens))
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for name, weights in {**gguf_tensors(source, theirs), **(tensors or {})}.items():
        if quantised is None or weights.ndim < 2:
            writer.add_tensor(name, weights)
        else:
            writer.add_tensor(name, blocks(weights, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file if not split else min(file.parent.glob(f"{file.stem}-00001-of-*"))


def blocks(weights: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The quantised weights; zeros where gguf can only dequantise."""
    try:
        return gguf.quantize(weights, kind)
    except NotImplementedError:
        return np.zeros(gguf.quant_shape_to_byte_shape(weights.shape, kind), np.uint8)


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def header_fields(config: PreTrainedConfig) -> dict[str, object]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fields: dict[str, object] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "vocab_size": config.vocab_size,
    }
    rope = config.rope_parameters
    fields["rope.freq_base"] = float(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        fields |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        fields["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        for theirs, key in (("attention_factor", "attn_factor"), ("beta_fast",) * 2, ("beta_slow",) * 2):
            if theirs in rope:
                fields[f"rope.scaling.yarn_{key}"] = float(rope[theirs])
    return fields


def gguf_tensors(source: ModelSource, architecture: str) -> dict[str, np.ndarray]:
    config = source.config
    tensors = {}
    for name, tensor in source.tensors().items():
        stem, _, suffix = name.rpartition(".")
        weights = tensor.float().numpy()
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            if architecture == "llama" and part.endswith(("q_proj", "k_proj")):
                query = part.endswith("q_proj")
                weights = permuted(
                    weights, config.num_attention_heads if query else config.num_key_value_heads
                )
            stem = f"blk.{layer}.{GGUF_NAMES[part]}"
        else:
            stem = GGUF_NAMES[stem]
        tensors[f"{stem}.{suffix}"] = weights
    if config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(config.rope_parameters, config.head_dim)
    return tensors


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head: its two rotary halves interleaved."""
    rows = weights.shape[0]
    halves = weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def llama3_factors(rope: Mapping[str, float], head_dim: int) -> np.ndarray:
    """By what each frequency is divided; as the converter computes it, one after the other."""
    original, low, high = (
        rope[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    factors = []
    for frequency in 1 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim):
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)
