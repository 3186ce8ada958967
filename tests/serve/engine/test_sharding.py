"""Which checkpoints can be shared between devices: the shapes of ``prune --tp``, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from secateur.checkpoint.configuration_secateur import slim_config
from secateur.config.serve import EngineOptions
from secateur.errors import BadInput
from secateur.model.architecture import Architecture
from secateur.serve.engine.sharding import LayerShape, check_sharding, layer_shapes
from secateur.space.space import Space

DENSE = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "head_dim": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 256,
}


@pytest.fixture
def slim(tmp_path: Path) -> Path:
    config = slim_config(LlamaConfig(**DENSE), groups=(4, 2, 0, 4), channels=(256, 64, 128, 0))
    config.save_pretrained(tmp_path)
    return tmp_path


def test_shapes_of_a_slim_checkpoint(slim: Path) -> None:
    assert layer_shapes(json.loads((slim / "config.json").read_text())) == [
        LayerShape(8, 4, 256),
        LayerShape(4, 2, 64),
        LayerShape(0, 0, 128),
        LayerShape(8, 4, 0),
    ]


@pytest.mark.parametrize("ranks", [{}, {"tensor_parallel": 2}, {"tensor_parallel": 4}])
def test_what_divides(slim: Path, ranks: dict[str, int]) -> None:
    check_sharding(slim, EngineOptions(**ranks))  # two KV heads on four devices: each on two


@pytest.mark.parametrize(
    ("changes", "ranks", "reason"),
    [
        ({"num_attention_heads": 9, "num_key_value_heads": 3}, 2, "layer 0 has 9 query heads"),
        ({"num_attention_heads": 18, "num_key_value_heads": 3}, 2, "layer 0 has 3 KV heads: one number"),
        ({"intermediate_size": 255}, 2, "layer 0 has 255 channels"),
        ({}, 3, "layer 0 has 8 query heads"),
    ],
)
def test_what_does_not_divide(tmp_path: Path, changes: dict[str, Any], ranks: int, reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE | {"model_type": "llama"} | changes))
    with pytest.raises(BadInput, match=f"tensor_parallel: got {ranks}: .*{reason}"):
        check_sharding(tmp_path, EngineOptions(tensor_parallel=ranks))


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_width_that_prune_allows_for_so_many_devices(tmp_path: Path, ranks: int) -> None:
    dense = Architecture((4,) * 4, (256,) * 4)
    space = Space(dense, quantum=16, tp=ranks, queries_per_group=2)
    widths = [(slot, width) for slot in space.slots for width in space.widths(*slot)]
    assert len(widths) > 8
    for (layer, kind), width in widths:
        shape = dense.with_width(layer, kind, width)
        slim_config(LlamaConfig(**DENSE), shape.groups, shape.channels).save_pretrained(tmp_path)
        check_sharding(tmp_path, EngineOptions(tensor_parallel=ranks))


def test_one_layer_is_enough_to_refuse(tmp_path: Path) -> None:
    slim_config(LlamaConfig(**DENSE), (4, 3, 4, 4), (256,) * 4).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="layer 1 has 3 KV heads"):
        check_sharding(tmp_path, EngineOptions(tensor_parallel=2))


def test_more_stages_than_layers(slim: Path) -> None:
    check_sharding(slim, EngineOptions(pipeline_parallel=4))
    with pytest.raises(BadInput, match=r"pipeline_parallel: got 5: .* has 4 layers"):
        check_sharding(slim, EngineOptions(pipeline_parallel=5))


def test_of_other_families_vllm_decides(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    check_sharding(tmp_path, EngineOptions(tensor_parallel=3))
