"""What learns, and that it folds into plain weights of the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.source import open_source
from secateur.config.recover import FULL, LAST, LORA, SCALES, TRAINED
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel, tensors_of
from secateur.model.forward import forward_context, hidden_states
from secateur.prune.surgery import build_slim_model
from secateur.recover.trained import Trained, start_training
from tests.recover.conftest import MIXED

TOKENS = torch.randint(2, 300, (2, 24), generator=torch.Generator().manual_seed(0))


def outputs(model: DecoderModel) -> Tensor:
    with torch.no_grad():
        return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1]))


def shaken(trained: Trained) -> None:
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=chance))


def cut_of(folder: Path, shape: Architecture) -> DecoderModel:
    return build_slim_model(BlockLibrary(open_source(folder).load_model(), None, torch.float32), shape)


@pytest.mark.parametrize("train", TRAINED)
def test_folded_is_the_same_function(tiny_model: Path, train: str) -> None:
    slim = cut_of(tiny_model, MIXED)
    trained = start_training(slim, train, rank=4, seed=0)
    assert float((outputs(trained.folded(torch.float32)) - outputs(slim)).abs().max()) < 1e-5
    shaken(trained)
    moved, folded = trained.hidden(TOKENS).detach(), outputs(trained.folded(torch.float32))
    size = float(moved.abs().max())
    assert float((moved - outputs(slim)).abs().max()) > 1e-2 * size
    assert float((moved - folded).abs().max()) < 2e-5 * size
    for ends in ("embedding_VH", "head_VH"):
        assert torch.equal(getattr(trained.folded(torch.float32), ends), getattr(slim, ends))


def test_freedom_rises(tiny_llama: Path) -> None:
    slim = cut_of(tiny_llama, MIXED)
    counts = {train: start_training(slim, train, rank=4, seed=0).count for train in TRAINED}
    assert counts[SCALES] < counts[LORA] < counts[FULL] and counts[SCALES] < counts[LAST] < counts[FULL]
    layers = sum(t.numel() for t in slim_tensors(slim))
    assert counts[FULL] == layers + slim.final_norm_H.numel()


def slim_tensors(slim: DecoderModel) -> list[Tensor]:
    halves = [half for layer in slim.layers for half in (layer.attention, layer.ffn) if half is not None]
    return [tensor for half in halves for tensor in tensors_of(half).values()]


def test_numbers_of_scales(tiny_llama: Path) -> None:
    """A factor per channel and KV group kept, one per output, and the norms."""
    slim = cut_of(tiny_llama, MIXED)
    norms = sum(1 for layer in slim.layers for half in (layer.attention, layer.ffn) if half) + 1
    expected = sum(MIXED.channels) + sum(MIXED.groups) + (norms - 1) + norms * slim.hidden_size
    assert start_training(slim, SCALES, rank=4, seed=0).count == expected
