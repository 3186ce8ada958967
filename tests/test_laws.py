"""The laws of pruning on the real model: sorting changes nothing, full width is dense, cutting is masking."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.corpus import cut_windows, load_corpus
from secateur.checkpoint.source import ModelSource
from secateur.model.architecture import KINDS, Architecture, Kind
from secateur.model.decoder import DecoderLayer, DecoderModel, architecture_of
from secateur.model.forward import forward_context, hidden_states
from secateur.model.units import expand_units, last_projection, permute, with_projection
from secateur.prune.surgery import build_slim_model

Orders = dict[tuple[int, Kind], Tensor]


@pytest.fixture(scope="module")
def model(smollm2: ModelSource) -> DecoderModel:
    return smollm2.load_model()


@pytest.fixture(scope="module")
def windows_BT(smollm2: ModelSource) -> Tensor:
    return cut_windows(load_corpus("pydoc:test"), smollm2.tokenizer(), 128, 2)


@pytest.fixture(scope="module")
def orders(model: DecoderModel) -> Orders:
    generator = torch.Generator().manual_seed(0)
    slots = [(layer, kind) for layer in range(model.num_layers) for kind in KINDS]
    return {slot: torch.randperm(model.width(*slot), generator=generator) for slot in slots}


@torch.inference_mode()
def run(model: DecoderModel, windows_BT: Tensor) -> Tensor:
    return hidden_states(model, windows_BT, forward_context(model, windows_BT.shape[1]))


def test_permuted_is_original(model: DecoderModel, windows_BT: Tensor, orders: Orders) -> None:
    expected = run(model, windows_BT)
    permuted = permute(model, orders)
    assert not torch.equal(permuted.layers[0].ffn.gate_CH, model.layers[0].ffn.gate_CH)  # type: ignore[union-attr]
    torch.testing.assert_close(run(permuted, windows_BT), expected, atol=2e-3, rtol=1e-4)


def test_full_width_is_dense(model: DecoderModel, windows_BT: Tensor) -> None:
    full = build_slim_model(BlockLibrary(model, None, torch.float32), architecture_of(model))
    assert torch.equal(run(full, windows_BT), run(model, windows_BT))


def test_cut_is_masked_dense(model: DecoderModel, windows_BT: Tensor, orders: Orders) -> None:
    shape = Architecture((3, 2, 1, 3, 0) * 6, (1536, 1024, 0, 512, 1280) * 6)
    slim = build_slim_model(BlockLibrary(permute(model, orders), None, torch.float32), shape)
    masked = _masked(model, orders, shape)
    difference = run(slim, windows_BT) - run(masked, windows_BT)
    assert difference.abs().max() < 2e-3 < (run(masked, windows_BT) - run(model, windows_BT)).abs().max()


def _masked(model: DecoderModel, orders: Orders, shape: Architecture) -> DecoderModel:
    """The dense model in its own order, with the last projection blind to what the shape cuts away."""

    def half(index: int, kind: Kind) -> object:
        block = model.layers[index].sub_block(kind)
        assert block is not None
        span = model.queries_per_group * model.head_dim if kind == "attention" else 1
        weight_HN = last_projection(block).clone()
        weight_HN[:, expand_units(orders[index, kind][shape.width(index, kind) :], span)] = 0.0
        return with_projection(block, weight_HN)

    layers = [DecoderLayer(half(index, "attention"), half(index, "ffn")) for index in range(model.num_layers)]  # type: ignore[arg-type]
    return replace(model, layers=tuple(layers))
