"""The per-layer checkpoint: equal to the masked dense model, cached = uncached, loadable without secateur."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from secateur.checkpoint import configuration_secateur, modeling_secateur
from secateur.checkpoint.configuration_secateur import SecateurConfig, slim_config
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from tests.conftest import REPEATS

LAYERS, GROUPS, CHANNELS = 4, 3, 40
SIZES = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": CHANNELS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2 * GROUPS,
    "num_key_value_heads": GROUPS,
    "head_dim": 16,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[PreTrainedConfig, type[PreTrainedModel]]] = {
    "llama": (LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True), LlamaForCausalLM),
    "llama-tied": (LlamaConfig(**SIZES, tie_word_embeddings=True), LlamaForCausalLM),
    "mistral": (MistralConfig(**SIZES, sliding_window=5), MistralForCausalLM),
    "qwen2": (Qwen2Config(**SIZES), Qwen2ForCausalLM),
    "qwen2-sliding": (
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=2),
        Qwen2ForCausalLM,
    ),
    "qwen3": (Qwen3Config(**SIZES), Qwen3ForCausalLM),
    "smollm3": (SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1, 0]), SmolLM3ForCausalLM),
    "granite": (
        GraniteConfig(
            **SIZES,
            embedding_multiplier=3.0,
            attention_multiplier=0.4,
            residual_multiplier=0.5,
            logits_scaling=2.5,
        ),
        GraniteForCausalLM,
    ),
    "ministral3": (Ministral3Config(**SIZES), Ministral3ForCausalLM),
    "phi3": (Phi3Config(**SIZES, partial_rotary_factor=0.5, sliding_window=5), Phi3ForCausalLM),
    "gemma3_text": (
        Gemma3TextConfig(
            **SIZES,
            sliding_window=5,
            query_pre_attn_scalar=20,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        Gemma3ForCausalLM,
    ),
}
IN_TURN = [pytest.param(name, marks=pytest.mark.slow) if name in REPEATS else name for name in FAMILIES]
SHAPES = {
    "mixed": ([3, 1, 2, 3], [40, 24, 0, 8]),
    "first-attention-removed": ([0, 2, 3, 1], [40, 40, 16, 40]),
    "last-layer-removed": ([3, 2, 1, 0], [40, 40, 16, 0]),
    "inner-layer-removed": ([3, 0, 1, 2], [40, 0, 16, 40]),
    "one-attention-left": ([0, 1, 0, 0], [40, 0, 16, 40]),
    "second-half-attends": ([0, 0, 1, 1], [40, 8, 16, 40]),  # of layers that slide, where others do not
    "nothing-removed": ([3, 3, 3, 3], [40, 40, 40, 40]),
}


def dense_model(family: str) -> PreTrainedModel:
    config, cls = FAMILIES[family]
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a wrong slice
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def cut(dense: PreTrainedModel, groups: list[int], channels: list[int]) -> SecateurForCausalLM:
    """The slim model that keeps the first groups and channels of each layer."""
    config = slim_config(dense.config, groups, channels)
    slim = SecateurForCausalLM(config).eval()
    source = dense.state_dict()
    slim.load_state_dict(
        {name: first_rows(name, source[name], tensor.shape) for name, tensor in slim.state_dict().items()}
    )
    return slim


def first_rows(name: str, dense: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The part of a tensor that a slim model keeps: of a fused projection, the first rows of each part."""
    parts = {"qkv_proj": (2, 1, 1), "gate_up_proj": (1, 1)}.get(name.split(".")[-2], (1,))
    whole, kept = (torch.tensor(parts) * (rows // sum(parts)) for rows in (len(dense), shape[0]))
    rows = [part[:rows] for part, rows in zip(dense.split(whole.tolist()), kept.tolist(), strict=True)]
    return torch.cat(rows)[tuple(slice(n) for n in shape)]


@torch.no_grad()
def mask(dense: PreTrainedModel, groups: list[int], channels: list[int]) -> PreTrainedModel:
    """Silence in place what `cut` removes: zero its columns in the projections back to the stream."""
    for layer, kept_groups, kept_channels in zip(dense.model.layers, groups, channels, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        attention.o_proj.weight[:, kept_groups * 2 * attention.head_dim :] = 0
        mlp.down_proj.weight[:, kept_channels:] = 0
        if not kept_groups and attention.o_proj.bias is not None:
            attention.o_proj.bias.zero_()
        if not kept_channels and mlp.down_proj.bias is not None:
            mlp.down_proj.bias.zero_()
    return dense


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(2, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", IN_TURN)
@torch.no_grad()
def test_slim_equals_masked_dense(family: str, shape: str) -> None:
    groups, channels = SHAPES[shape]
    dense = dense_model(family)
    slim = cut(dense, groups, channels)
    attention_mask = torch.ones(2, 12, dtype=torch.long)
    attention_mask[1, :3] = 0
    given = {"input_ids": tokens(2, 12), "attention_mask": attention_mask}
    expected = mask(dense, groups, channels)(**given).logits
    torch.testing.assert_close(slim(**given).logits, expected, atol=2e-5, rtol=1e-4)
    slim.set_attn_implementation("eager")
    torch.testing.assert_close(slim(**given).logits, expected, atol=2e-5, rtol=1e-4)


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 8},
    "longrope": {
        "factor": 4.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 8,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@torch.no_grad()
def test_scaled_rotary_embeddings(family: str, rope: str, tmp_path: Path) -> None:
    """Read from a config that refuses to say how many heads there are; also beyond the original context."""
    config, cls = FAMILIES[family]
    fields = {**config.to_dict(), "max_position_embeddings": 32}
    fields["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": rope, **ROPES[rope]}
    torch.manual_seed(0)
    dense = cls(type(config)(**fields)).eval()
    cut(dense, *SHAPES["mixed"]).save_pretrained(tmp_path)
    slim = SecateurForCausalLM.from_pretrained(tmp_path)
    masked = mask(dense, *SHAPES["mixed"])
    for length in (6, 28):
        torch.testing.assert_close(
            slim(tokens(1, length)).logits, masked(tokens(1, length)).logits, atol=2e-5, rtol=1e-4
        )
    read = SecateurConfig.from_pretrained(tmp_path)
    assert read.rope_parameters == dense.config.rope_parameters
    read.validate_rope()  # as vLLM does


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", IN_TURN)
@torch.no_grad()
def test_generation_with_cache_equals_generation_without(family: str, shape: str) -> None:
    slim = cut(dense_model(family), *SHAPES[shape])
    prompt = tokens(1, 4)
    cached, uncached = (
        slim.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=use_cache, pad_token_id=0)
        for use_cache in (True, False)
    )
    assert cached.tolist() == uncached.tolist()
    assert cached.shape == (1, 16)


def test_cache_counts_tokens_when_the_first_attention_is_removed() -> None:
    slim = cut(dense_model("llama"), *SHAPES["first-attention-removed"])
    cache = slim(tokens(1, 7), use_cache=True).past_key_values
    assert cache.get_seq_length() == 7


@pytest.mark.slow  # as tests/checkpoint/test_export.py, which opens what `export` wrote
def test_checkpoint_loads_where_secateur_is_not_installed(tmp_path: Path) -> None:
    slim = cut(dense_model("qwen2"), *SHAPES["mixed"])
    slim.save_pretrained(tmp_path)
    for module in (configuration_secateur, modeling_secateur):
        shutil.copy(str(module.__file__), tmp_path)
    script = f"""
import sys
sys.modules["secateur"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
logits = model(torch.arange(2, 12)[None]).logits
torch.save(logits, {str(tmp_path / "logits.pt")!r})
"""
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)
    with torch.no_grad():
        expected = slim(torch.arange(2, 12)[None]).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, atol=2e-5, rtol=1e-4)
