"""A model that several processes compute together says what one process says: on vLLM's CPU backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.checkpoint.configuration_secateur import slim_config
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from secateur.client import Client, ScoreResult
from secateur.serve.process import served
from tests.serve.conftest import SMALL

TEXT = "In the beginning there was a garden, and in the garden there was a tree."


@pytest.fixture(scope="module")
def slim(make_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers that differ and divide by two; one KV head stays on both devices, two sub-blocks are gone."""
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
    dense = make_tiny("llama", num_hidden_layers=4, **shape)
    torch.manual_seed(1)
    config = AutoModelForCausalLM.from_pretrained(dense).config
    model = SecateurForCausalLM(slim_config(config, (4, 2, 0, 1), (192, 64, 128, 0)))
    folder = tmp_path_factory.mktemp("shared")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(dense).save_pretrained(folder)
    return folder


def score(folder: Path, *options: str) -> ScoreResult:
    with served({"m": folder}, *SMALL, *options) as server, Client(server.address) as client:
        return client.score("m", TEXT)


@pytest.mark.slow
def test_several_processes_agree_with_one(slim: Path) -> None:
    pytest.importorskip("vllm")
    alone = score(slim)
    for option in ("--tensor-parallel", "--pipeline-parallel"):
        shared = score(slim, option, "2")
        assert shared.token_ids == alone.token_ids and len(alone.logprobs) > 10
        assert shared.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
