"""One model on several devices: whether its shape allows it, and who starts the processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secateur.config.serve import EngineOptions
from secateur.errors import BackendUnavailable, BadInput

SHARED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "secateur")
"""Whose layers vLLM 0.32 shares out by the rules below; what it can do with others it says itself."""


@dataclass(frozen=True)
class LayerShape:
    """What of a layer is shared between devices; zeros where a sub-block is missing."""

    heads: int
    kv_heads: int
    channels: int


def layer_shapes(config: Mapping[str, Any]) -> list[LayerShape]:
    """The layers of a checkpoint, by its ``config.json``.

    Raises:
        KeyError, TypeError, ValueError: it does not describe layers as those of `SHARED_FAMILIES` do.
    """
    heads = int(config["num_attention_heads"])
    dense = {
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "intermediate_size": config["intermediate_size"],
        "skip": (),
    }
    overrides = config.get("per_layer_config") or {}
    layers = ({**dense, **overrides.get(str(index), {})} for index in range(config["num_hidden_layers"]))
    return [_layer_shape(layer) for layer in layers]


def _layer_shape(layer: Mapping[str, Any]) -> LayerShape:
    has_attention, has_ffn = ("attention" not in layer["skip"], "mlp" not in layer["skip"])
    return LayerShape(
        int(layer["num_attention_heads"]) * has_attention,
        int(layer["num_key_value_heads"]) * has_attention,
        int(layer["intermediate_size"]) * has_ffn,
    )


def check_sharding(folder: Path, options: EngineOptions) -> None:
    """Refuse a checkpoint that cannot be shared between so many devices.

    Raises:
        BadInput: saying which layer does not divide.
    """
    if options.ranks == 1:
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["model_type"] not in SHARED_FAMILIES:
            return
        shapes = layer_shapes(config)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return  # whoever opens the checkpoint says what is wrong with it
    for fault in _faults(shapes, options.tensor_parallel):
        raise BadInput("tensor_parallel", options.tensor_parallel, f"{folder}: {fault}")
    if options.pipeline_parallel > len(shapes):
        raise BadInput("pipeline_parallel", options.pipeline_parallel, f"{folder} has {len(shapes)} layers")


def _faults(shapes: list[LayerShape], ranks: int) -> Iterator[str]:
    """The rules of vLLM 0.32 (LlamaAttention, QKVParallelLinear, MergedColumnParallelLinear)."""
    for index, shape in enumerate(shapes):
        if shape.heads % ranks:
            yield f"layer {index} has {shape.heads} query heads, a multiple of the devices is needed"
        if shape.kv_heads and shape.kv_heads % ranks and ranks % shape.kv_heads:
            yield f"layer {index} has {shape.kv_heads} KV heads: one number has to divide the other"
        if shape.channels % ranks:
            yield f"layer {index} has {shape.channels} channels, a multiple of the devices is needed"


def executor(ranks: int, local_devices: int | None) -> str | None:
    """What vLLM starts the processes of an engine with: "mp" on this machine, "ray" on several.

    Args:
        local_devices: GPUs of this machine; None = computed on its CPU.

    Returns:
        vLLM's ``distributed_executor_backend``; None for one process.

    Raises:
        BackendUnavailable: several machines are needed, and Ray is not installed.
    """
    if ranks == 1:
        return None
    if local_devices is None or ranks <= local_devices:
        return "mp"
    if find_spec("ray") is None:
        raise BackendUnavailable(
            f"a model on {ranks} GPUs, {local_devices} of them here: others are reached through Ray "
            "(pip install '.[ray]', then `ray start` on every machine)"
        )
    return "ray"
