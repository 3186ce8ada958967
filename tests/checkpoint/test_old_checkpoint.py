"""A per-layer checkpoint that commit e570153 wrote still opens, with today's code and with its own.

Its `config.json`, record and travelling files are in ``data``; weights and tokenizer are made here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from secateur.checkpoint.completeness import expected_shapes
from secateur.checkpoint.configuration_secateur import SecateurConfig
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from secateur.checkpoint.source import open_source
from secateur.model.architecture import Architecture
from secateur.model.decoder import architecture_of
from secateur.model.forward import forward_context, hidden_states

DATA = Path(__file__).parent / "data" / "e570153"
TOKENS = torch.randint(2, 300, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("old") / "slim"
    shutil.copytree(DATA, folder, ignore=shutil.ignore_patterns("__pycache__"))
    tiny_tokenizer.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(SecateurConfig.from_pretrained(folder))
    tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@torch.inference_mode()
def logits_here(folder: Path) -> torch.Tensor:
    model = open_source(folder).load_model()
    return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1])) @ model.head_VH.T


def test_opens_with_the_widths_of_its_record(folder: Path) -> None:
    record = json.loads((folder / "secateur.json").read_text())
    model = open_source(folder).load_model()
    assert architecture_of(model) == Architecture.from_json(record["architecture"])


def test_its_own_files_compute_what_todays_do(folder: Path) -> None:
    then = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    today = SecateurForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(then).__module__.startswith("transformers_modules.")
    with torch.inference_mode():
        expected = then(TOKENS).logits
        assert torch.equal(today(TOKENS).logits, expected)
    assert torch.allclose(logits_here(folder), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_server_reads_its_record(folder: Path) -> None:
    from secateur.serve.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(folder)
    assert checkpoint.model_type == "secateur"
    assert checkpoint.record["architecture"] == {"groups": [2, 2, 1], "channels": [128, 128, 64]}
