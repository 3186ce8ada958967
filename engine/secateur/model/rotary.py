"""Rotary tables of every layer, in the engine's order of channels (`layout`).

Shape suffixes: T positions, R channels that turn, D head_dim.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RotaryTables:
    """Cosines and sines by position and channel of a head."""

    cos_TD: Tensor
    sin_TD: Tensor


def rotary_tables(
    config: Any, head_dim: int, window: int, *, partial: bool = False
) -> tuple[RotaryTables, ...]:
    """The tables of every layer, fp32; layers that turn alike share them.

    Args:
        config: of the dense model. ``rope_parameters`` may be one for each of its ``layer_types``, and
            ``no_rope_layers`` may have zeros for layers without rotary embedding.
        window: tokens.
        partial: whether the config may say that only the first channels of a head turn.
    """
    kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    turns = getattr(config, "no_rope_layers", None) or [True] * config.num_hidden_layers
    of_kind = {
        kind: _tables(_config_of(config, kind), head_dim, window, partial) for kind in dict.fromkeys(kinds)
    }
    still = RotaryTables(torch.ones(window, head_dim), torch.zeros(window, head_dim))
    layers = range(config.num_hidden_layers)
    return tuple(of_kind[kinds[layer]] if turns[layer] else still for layer in layers)


def convert_tables(
    tables: tuple[RotaryTables, ...], device: torch.device, dtype: torch.dtype
) -> tuple[RotaryTables, ...]:
    """On a device and in a dtype; layers share what they shared."""
    made = {
        table: RotaryTables(table.cos_TD.to(device, dtype), table.sin_TD.to(device, dtype))
        for table in dict.fromkeys(tables)
    }
    return tuple(made[table] for table in tables)


def _config_of(config: Any, kind: str | None) -> Any:
    """The config as layers of one kind see it."""
    rope = config.rope_parameters
    if kind is None or kind not in rope:
        return config
    flat = copy.copy(config)
    flat.rope_parameters = rope[kind]
    return flat


def _tables(config: Any, head_dim: int, window: int, partial: bool) -> RotaryTables:
    """As transformers computes them; channels that do not turn have cosine 1 and sine 0."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    rotary = (Phi3RotaryEmbedding if partial else LlamaRotaryEmbedding)(config=config)
    cos, sin = rotary(torch.zeros(1, window, 1, dtype=torch.float32), torch.arange(window)[None])
    return RotaryTables(_padded(cos[0], head_dim, 1.0), _padded(sin[0], head_dim, 0.0))


def _padded(table_TR: Tensor, head_dim: int, still: float) -> Tensor:
    rest = (head_dim - table_TR.shape[1]) // 2
    if not rest:
        return table_TR
    still_TX = table_TR.new_full((len(table_TR), rest), still)
    one, two = table_TR.chunk(2, dim=1)
    return torch.cat((one, still_TX, two, still_TX), dim=1)
