"""The configuration of checkpoints whose layers differ, and when the family's own can hold a shape."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from secateur.checkpoint.configuration_secateur import SecateurConfig, slim_config, stock_config

LAYERS, GROUPS, CHANNELS = 4, 3, 40
SIZES = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": CHANNELS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2 * GROUPS,
    "num_key_value_heads": GROUPS,
    "head_dim": 16,
    "eos_token_id": None,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=5),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-sliding": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "qwen3": Qwen3Config(**SIZES),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_config_survives_a_round_trip(family: str, tmp_path: Path) -> None:
    config = slim_config(FAMILIES[family], [3, 1, 2, 3], [40, 24, 0, 8])
    config.save_pretrained(tmp_path)
    again = SecateurConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.architectures == ["SecateurForCausalLM"]
    assert [layer.skip for layer in again.per_layer_config] == [[], [], ["mlp"], []]
    assert again.per_layer_config[1].num_attention_heads == 2
    assert again.per_layer_config[1].intermediate_size == 24


@pytest.mark.parametrize(
    ("groups", "channels", "complaint"),
    [
        ([1, 1, 1], [8] * 4, "groups: got 3 entries for 4 layers"),
        ([1, 1, 1, 4], [8] * 4, "groups: got 4, allowed are 0 to 3"),
        ([1] * 4, [8, 8, 8, -1], "channels: got -1, allowed are 0 to 40"),
        ([0] * 4, [8] * 4, "every layer skips attention"),
    ],
)
def test_impossible_shapes_are_refused(groups: list[int], channels: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        slim_config(FAMILIES["llama"], groups, channels)


@pytest.mark.parametrize(
    ("family", "groups", "stock"),
    [("llama", 1, True), ("llama", 2, True), ("qwen2", 2, False), ("qwen2", 3, True), ("qwen3", 2, True)],
)
def test_uniform_shapes_use_the_stock_class_where_it_can_hold_them(
    family: str, groups: int, stock: bool, tmp_path: Path
) -> None:
    config = stock_config(FAMILIES[family], [groups] * LAYERS, [8] * LAYERS)
    assert (config is not None) == stock
    if config is not None:
        config.save_pretrained(tmp_path)
        again = AutoConfig.from_pretrained(tmp_path)
        assert (again.model_type, again.num_key_value_heads, again.intermediate_size) == (family, groups, 8)
        assert family == "qwen2" or again.head_dim == 16


def test_head_counts_that_llama_refuses_are_not_stock() -> None:
    wide = LlamaConfig(**SIZES | {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4})
    assert stock_config(wide, [3] * LAYERS, [8] * LAYERS) is None
    assert stock_config(wide, [2] * LAYERS, [8] * LAYERS) is not None
    assert stock_config(wide, [2, 2, 2, 1], [8] * LAYERS) is None
    assert stock_config(wide, [0] * LAYERS, [8] * LAYERS) is None
