"""Units: re-ordering them changes no function, and the first few of a sorted sub-block are views."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.checkpoint.source import open_source
from secateur.model.architecture import KINDS, Slot
from secateur.model.decoder import AttentionWeights, DecoderModel, tensors_of
from secateur.model.forward import forward_context, hidden_states
from secateur.model.units import (
    expand_units,
    last_projection,
    num_parameters,
    permute,
    prefix_of_units,
    unit_span,
)

TOKENS = torch.randint(2, 300, (3, 24), generator=torch.Generator().manual_seed(0))


@cache
def load(folder: Path) -> DecoderModel:
    return open_source(folder).load_model()


def random_orders(model: DecoderModel, seed: int) -> dict[Slot, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        (layer, kind): torch.randperm(model.width(layer, kind), generator=generator)
        for layer in range(model.num_layers)
        for kind in KINDS
    }


def outputs(model: DecoderModel) -> Tensor:
    with torch.inference_mode():
        return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1])) @ model.head_VH.T


class TestPermute:
    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**16))
    def test_computes_what_the_original_does(self, seed: int, tiny_model: Path) -> None:
        model = load(tiny_model)
        expected = outputs(model)
        found = outputs(permute(model, random_orders(model, seed)))
        assert float((found - expected).abs().max()) < 2e-5 * float(expected.abs().max())

    def test_biases_move_along(self, make_tiny: Callable[..., Path]) -> None:
        model = load(make_tiny("llama", attention_bias=True, mlp_bias=True, num_key_value_heads=4))
        expected = outputs(model)
        found = outputs(permute(model, random_orders(model, 1)))
        assert float((found - expected).abs().max()) < 2e-5 * float(expected.abs().max())

    def test_in_that_order(self, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        order = torch.arange(192).flip(0)
        orders = {**random_orders(model, 0), (1, "ffn"): order}
        block = permute(model, orders).layers[1].ffn
        dense = model.layers[1].ffn
        assert torch.equal(block.gate_CH[0], dense.gate_CH[191])
        assert torch.equal(block.down_HC[:, 0], dense.down_HC[:, 191])
        assert torch.equal(block.norm_H, dense.norm_H)

    def test_the_original_is_left_alone(self, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        before = model.layers[0].ffn.gate_CH.clone()
        permute(model, random_orders(model, 0))
        assert torch.equal(model.layers[0].ffn.gate_CH, before)


class TestExpand:
    def test_by_hand(self) -> None:
        assert expand_units(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]

    def test_unit_spans(self, tiny_llama: Path) -> None:
        model = load(tiny_llama)  # 4 heads of 32 in 2 groups
        assert unit_span(model, "attention") == 64
        assert unit_span(model, "ffn") == 1


class TestPrefix:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_tensor_is_a_view(self, kind: str, tiny_model: Path) -> None:
        model = load(tiny_model)
        block = model.layers[0].sub_block(kind)
        part = prefix_of_units(block, 1, model.head_dim, model.queries_per_group)
        whole = tensors_of(block)
        for name, tensor in tensors_of(part).items():
            assert tensor.untyped_storage().data_ptr() == whole[name].untyped_storage().data_ptr(), name
        assert last_projection(part).shape == (128, unit_span(model, kind))

    def test_of_biases(self, make_tiny: Callable[..., Path]) -> None:
        model = load(make_tiny("llama", attention_bias=True, mlp_bias=True))
        attention = prefix_of_units(model.layers[0].attention, 1, 32, 2)
        assert isinstance(attention, AttentionWeights)
        assert attention.query_bias_Q.shape == (64,) and attention.key_bias_K.shape == (32,)
        assert attention.output_bias_H.shape == (128,)
        ffn = prefix_of_units(model.layers[0].ffn, 5, 32, 2)
        assert ffn.gate_bias_C.shape == ffn.up_bias_C.shape == (5,)
        assert ffn.down_bias_H.shape == (128,)


def test_num_parameters(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    assert num_parameters(None) == 0
    assert num_parameters(model.layers[0].ffn) == 3 * 192 * 128 + 128
    assert num_parameters(model.layers[0].attention) == 2 * 128 * 128 + 2 * 64 * 128 + 128
