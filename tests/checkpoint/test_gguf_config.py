"""Headers of GGUF files: the model is the one of the folder that was converted, or the key is named.

Law, for families x rotary embeddings x head sizes x biases: transformers on the folder and the engine on
the file compute the same logits, from the same parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.errors import BrokenCheckpoint, SecateurError, UnsupportedModel
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.model.forward import forward_context, hidden_states
from secateur.prune.surgery import build_slim_model
from tests.checkpoint.converter import llama3_factors, write_gguf

TOKENS = torch.randint(2, 300, (2, 200), generator=torch.Generator().manual_seed(0))
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn in full": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.5,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "llama3": LLAMA3,
}
KINDS = [
    *(
        (family, rope, 64, {})
        for family in ("llama", "mistral", "qwen2", "qwen3")
        for rope in ROPES
        if rope != "llama3" or family == "llama"
    ),
    *((family, "default", 32, {}) for family in ("llama", "mistral", "qwen2", "qwen3")),
    *(
        (family, rope, 32, biases)
        for family, biases in (
            ("llama", {"attention_bias": True, "mlp_bias": True}),
            ("llama", {"attention_bias": True}),
            ("qwen3", {"attention_bias": True}),
        )
        for rope in ("default", "yarn in full")
    ),
]


def ours(model: DecoderModel) -> Tensor:
    with torch.inference_mode():
        return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1])) @ model.head_VH.T


def theirs(folder: Path) -> Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(TOKENS).logits


def rope_of(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.rope_parameters.items() if value is not None}


@pytest.fixture(scope="module")
def scaled(make_tiny: Callable[..., Path]) -> Callable[..., Path]:
    def make(family: str, rope: dict[str, Any], **changes: Any) -> Path:
        parameters = {"rope_theta": 1e6, **rope}
        return make_tiny(family, num_hidden_layers=1, rope_parameters=parameters, **changes)

    return make


@pytest.fixture
def refused(tmp_path: Path, tiny_llama: Path) -> Callable[..., None]:
    def check(kind: type[SecateurError], words: str, folder: Path = tiny_llama, **changes: Any) -> None:
        file = write_gguf(folder, tmp_path / "tiny.gguf", **changes)
        with pytest.raises(kind, match=words) as caught:
            open_source(file)
        assert "\n" not in str(caught.value)

    return check


@pytest.mark.parametrize(("family", "rope", "head_dim", "biases"), KINDS)
def test_logits_are_those_of_the_folder(
    scaled: Callable[..., Path],
    tmp_path: Path,
    family: str,
    rope: str,
    head_dim: int,
    biases: dict[str, bool],
) -> None:
    folder = scaled(family, ROPES[rope], head_dim=head_dim, **biases)
    dense, read = open_source(folder), open_source(write_gguf(folder, tmp_path / "tiny.gguf"))
    assert rope_of(read.config) == rope_of(dense.config)
    torch.testing.assert_close(ours(read.load_model()), theirs(folder), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rope", ["linear", "yarn in full", "llama3"])
def test_exported_checkpoints_keep_the_rotary_embedding(
    scaled: Callable[..., Path], tmp_path: Path, rope: str
) -> None:
    folder = scaled("llama", ROPES[rope])
    read = open_source(write_gguf(folder, tmp_path / "tiny.gguf"))
    model = read.load_model()
    slim = build_slim_model(BlockLibrary(model, None, torch.float32), Architecture((1,), (64,)))
    for out, written in ((tmp_path / "dense", model), (tmp_path / "slim", slim)):
        export(written, read, out, None, torch.float32)
        config = json.loads((out / "config.json").read_text())
        assert {"rope_theta": 1e6, **ROPES[rope]}.items() <= config["rope_parameters"].items()
        torch.testing.assert_close(theirs(out), ours(written), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs(tmp_path / "dense"), theirs(folder), rtol=1e-4, atol=1e-4)


def test_config_is_that_of_the_folder(tiny_qwen3: Path, tmp_path: Path) -> None:
    dense, read = open_source(tiny_qwen3), open_source(write_gguf(tiny_qwen3, tmp_path / "tiny.gguf"))
    apart = {"architectures", "dtype", "_name_or_path", "layer_types", "initializer_range"}
    found, expected = read.config.to_dict(), dense.config.to_dict()
    assert {k: v for k, v in found.items() if k not in apart} == {
        k: v for k, v in expected.items() if k not in apart
    }


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    ("factor", "low", "high", "original"),
    [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 2.0, 5.0, 6000), (16.0, 1.0, 8.0, 2048)],
)
def test_llama3_parameters_from_their_factors(
    tiny_llama: Path,
    tmp_path: Path,
    head_dim: int,
    theta: float,
    factor: float,
    low: float,
    high: float,
    original: int,
) -> None:
    from secateur.checkpoint.gguf_config import llama3_parameters

    rope = {
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    stored = llama3_factors(rope, head_dim)
    found = llama3_parameters(stored, theta, head_dim)
    if found is None:  # a head so small that one frequency at most is between the thresholds
        assert head_dim == 16 and (low, high) != (1.0, 4.0)
    else:
        again = llama3_factors({**rope, **found}, head_dim)
        np.testing.assert_allclose(again, stored, rtol=1e-5)
        if (low, high) == (1.0, 4.0) and theta == 500_000.0 and head_dim > 16:
            assert found == {**LLAMA3, "factor": factor, "original_max_position_embeddings": original}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rope__scaling__type", "longrope", "rope.scaling.type = 'longrope': none, linear and yarn"),
        ("rope__scaling__alpha", 2.0, "llama.rope.scaling.alpha = 2.0: not supported"),
        ("rope__scaling__attn_factor", 1.5, "rope.scaling.attn_factor = 1.5"),
        ("rope__dimension_count", 16, r"llama.rope.dimension_count = 16: only the size of a head \(32\)"),
        ("rope__dimension_sections", [8, 12, 12, 0], "a list llama.rope.dimension_sections"),
        ("attention__head_count_kv", [2, 2, 1], "a list llama.attention.head_count_kv"),
        ("attention__value_length", 64, "attention.value_length = 64"),
        ("attention__sliding_window", 128, "attention.sliding_window = 128"),
        ("attention__causal", False, "attention.causal = False"),
        ("attn_logit_softcapping", 50.0, "attn_logit_softcapping = 50.0"),
        ("expert_count", 8, "expert_count = 8"),
        ("logit_scale", 0.5, "logit_scale = 0.5"),
    ],
)
def test_what_changes_results_is_refused(
    refused: Callable[..., None], field: str, value: object, words: str
) -> None:
    refused(UnsupportedModel, words, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("block_count", None, "no llama.block_count"),
        ("block_count", 4_000_000_000, "llama.block_count = 4000000000"),
        ("block_count", 2, "llama.block_count = 2, but 3 layers"),
        ("embedding_length", 64, "has shape"),
        ("embedding_length", 126, "unusable config: The hidden size"),
        ("attention__head_count", 0, "llama.attention.head_count = 0"),
        ("attention__head_count", "four", "llama.attention.head_count = 'four'"),
        ("attention__head_count_kv", 1.5, "llama.attention.head_count_kv = 1.5"),
        ("attention__layer_norm_rms_epsilon", float("nan"), "layer_norm_rms_epsilon = nan"),
        ("rope__freq_base", float("inf"), "rope.freq_base = inf"),
    ],
)
def test_what_no_model_has_is_refused(
    refused: Callable[..., None], field: str, value: object, words: str
) -> None:
    refused(BrokenCheckpoint, words, **{field: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor = 0.5: only 1"),
        ({"rope__scaling__yarn_attn_factor": 1.0}, "yarn_attn_factor = 1.0: ambiguous"),
    ],
)
def test_yarn_that_transformers_cannot_express(
    refused: Callable[..., None], changes: dict[str, float], words: str
) -> None:
    refused(UnsupportedModel, words, rope__scaling__type="yarn", rope__scaling__factor=4.0, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert_count": 0, "attention__sliding_window": 0, "attention__causal": True, "logit_scale": 1.0},
        {"attention__sliding_window": 512, "rope__scaling__finetuned": False, "pooling_type": 3},
        {"rope__scaling__type": "none", "rope__scaling__factor": 4.0},
        {"rope__scaling__type": "linear", "rope__scaling__factor": 0.0},
        {"attention__key_length": None, "attention__value_length": None, "rope__dimension_count": None},
    ],
)
def test_what_changes_nothing_is_read(tiny_llama: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    read = open_source(write_gguf(tiny_llama, tmp_path / "tiny.gguf", **changes))
    assert rope_of(read.config)["rope_type"] == "default"
    torch.testing.assert_close(ours(read.load_model()), theirs(tiny_llama), rtol=1e-4, atol=1e-4)


def test_scaling_by_its_old_name(tiny_llama: Path, tmp_path: Path) -> None:
    read = open_source(write_gguf(tiny_llama, tmp_path / "tiny.gguf", rope__scale_linear=2.0))
    assert rope_of(read.config) == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("log_multiplier", "attention_factor"), [(1.0, 1.0), (0.707, 1.13862944 / 1.09801101), (0.0, 1.13862944)]
)
def test_yarn_magnitude(
    tiny_llama: Path, tmp_path: Path, log_multiplier: float, attention_factor: float
) -> None:
    fields = {"type": "yarn", "factor": 4.0, "yarn_log_multiplier": log_multiplier, "attn_factor": 2.0}
    changes = {f"rope__scaling__{key}": value for key, value in fields.items()}
    read = open_source(write_gguf(tiny_llama, tmp_path / "tiny.gguf", **changes))
    assert read.config.rope_parameters["attention_factor"] == pytest.approx(2 * attention_factor)
    assert read.config.rope_parameters["original_max_position_embeddings"] == 512


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (np.ones(16), "not Llama 3.1's"),
        (np.linspace(1, 8, 16), "not Llama 3.1's"),
        (np.full(15, 8.0), "not Llama 3.1's"),
        (np.full(16, np.nan), "not Llama 3.1's"),
        (np.zeros((2, 8)), "not one row"),
    ],
)
def test_other_rotary_factors_are_refused(
    refused: Callable[..., None], factors: np.ndarray, words: str
) -> None:
    refused(UnsupportedModel, words, tensors={"rope_freqs.weight": factors.astype(np.float32)})


def test_rotary_factors_of_other_families_are_refused(refused: Callable[..., None], tiny_qwen2: Path) -> None:
    factors = llama3_factors({"rope_theta": 10000.0, **LLAMA3}, 32)
    refused(UnsupportedModel, "not in a Llama", tiny_qwen2, tensors={"rope_freqs.weight": factors})


def test_architectures_that_llama_cpp_does_not_write(
    refused: Callable[..., None], tiny_mistral: Path
) -> None:
    refused(
        UnsupportedModel,
        "architecture 'mistral'; supported: llama, qwen2",
        tiny_mistral,
        architecture="mistral",
    )
    refused(UnsupportedModel, "architecture 'phi3'", architecture="phi3")
