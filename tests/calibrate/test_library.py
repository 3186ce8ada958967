"""The block library: sorting changes no function, full width is the dense block, widths are views.

Proven: a permuted model computes what the original does, for every family and random orders
(property); prefixes share storage with the sorted model; the cache keeps its byte limit and never
changes a value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.calibrate.library import (
    BlockLibrary,
    Factors,
    expand_units,
    last_projection,
    num_parameters,
    permute,
    prefix_of_units,
    unit_span,
)
from secateur.calibrate.repair import factorise, repaired
from secateur.calibrate.statistics import collect_grams
from secateur.checkpoint.source import open_source
from secateur.model.architecture import KINDS
from secateur.model.dense import AttentionWeights, DecoderModel, SubBlock, build_model, tensors_of
from secateur.model.forward import apply_block, embed, forward_context, hidden_states

TOKENS = torch.randint(2, 300, (3, 24), generator=torch.Generator().manual_seed(0))
Orders = dict[tuple[int, str], Tensor]


@cache
def load(folder: Path) -> DecoderModel:
    source = open_source(folder)
    return build_model(source.config, source.tensors(), str(folder))


def random_orders(model: DecoderModel, seed: int) -> Orders:
    generator = torch.Generator().manual_seed(seed)
    return {
        (layer, kind): torch.randperm(model.width(layer, kind), generator=generator)
        for layer in range(model.num_layers)
        for kind in KINDS
    }


@cache
def sorted_with_factors(folder: Path, seed: int = 0) -> tuple[DecoderModel, Factors]:
    """A model in a random order, and the factors that go with it."""
    model = load(folder)
    orders = random_orders(model, seed)
    with torch.inference_mode():
        factors = {
            (gram.layer, gram.kind): factorise(
                gram.gram_NN,
                expand_units(orders[gram.layer, gram.kind], unit_span(model, gram.kind)),
                0.01,
            )
            for gram in collect_grams(model, TOKENS, forward_context(model, TOKENS.shape[1]))
        }
    return permute(model, orders), factors


def outputs(model: DecoderModel) -> Tensor:
    with torch.inference_mode():
        return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1])) @ model.head_VH.T


def shares_storage(part: SubBlock, whole: SubBlock, *, but: str) -> bool:
    wholes = tensors_of(whole)
    return all(
        tensor.untyped_storage().data_ptr() == wholes[name].untyped_storage().data_ptr()
        for name, tensor in tensors_of(part).items()
        if name != but
    )


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
        assert shares_storage(part, block, but="")
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


class TestBlockLibrary:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    def test_full_width_is_the_dense_block_itself(self, dtype: torch.dtype, tiny_model: Path) -> None:
        model, factors = sorted_with_factors(tiny_model)
        library = BlockLibrary(model, factors, dtype)
        assert library.model.dtype == dtype
        for layer in range(3):
            for kind in KINDS:
                full = library.block(layer, kind, model.width(layer, kind))
                assert full is library.model.layers[layer].sub_block(kind)
        if dtype == model.dtype:
            assert library.model is library.master is model

    def test_zero_is_no_block(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_factors(tiny_llama), torch.float32)
        assert library.block(0, "ffn", 0) is None and library.master_block(0, "attention", 0) is None

    @pytest.mark.parametrize(("kind", "units"), [("attention", 1), ("ffn", 7), ("ffn", 191)])
    def test_views_and_a_repaired_projection(self, kind: str, units: int, tiny_model: Path) -> None:
        model, factors = sorted_with_factors(tiny_model)
        library = BlockLibrary(model, factors, torch.float32)
        block, full = library.block(1, kind, units), model.layers[1].sub_block(kind)
        but = "output_HQ" if kind == "attention" else "down_HC"
        assert shares_storage(block, full, but=but)
        expected = repaired(last_projection(full), factors[1, kind], units * unit_span(model, kind))
        assert torch.equal(last_projection(block), expected)

    def test_without_factors_a_plain_cut(self, tiny_llama: Path) -> None:
        model, _ = sorted_with_factors(tiny_llama)
        block = BlockLibrary(model, None, torch.float32).block(0, "ffn", 50)
        assert torch.equal(last_projection(block), model.layers[0].ffn.down_HC[:, :50])

    def test_repair_helps(self, tiny_llama: Path) -> None:
        """On the calibration tokens, the output of the first sub-block is nearer to the dense one."""
        model, factors = sorted_with_factors(tiny_llama)
        geo = forward_context(model, TOKENS.shape[1])
        dense = apply_block(embed(model, TOKENS), model.layers[0].attention, geo, 0)
        errors = {}
        for name, library in (
            ("cut", BlockLibrary(model, None, torch.float32)),
            ("repaired", BlockLibrary(model, factors, torch.float32)),
        ):
            found = apply_block(embed(model, TOKENS), library.block(0, "attention", 1), geo, 0)
            errors[name] = float((found - dense).square().sum())
        assert errors["repaired"] < errors["cut"]
        announced = BlockLibrary(model, factors, torch.float32).errors(0, "attention", [1])[0]
        assert errors["repaired"] <= announced * 1.001

    def test_errors_fall_with_the_width(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_factors(tiny_llama), torch.float32)
        errors = library.errors(1, "ffn", [0, 64, 128, 192])
        assert errors == sorted(errors, reverse=True) and errors[-1] == 0.0

    def test_errors_without_factors(self, tiny_llama: Path) -> None:
        model, _ = sorted_with_factors(tiny_llama)
        assert BlockLibrary(model, None, torch.float32).errors(0, "ffn", [0, 10]) == [0.0, 0.0]

    def test_master_block_keeps_the_stored_dtype_and_owns_its_memory(self, tiny_llama: Path) -> None:
        model, factors = sorted_with_factors(tiny_llama)
        library = BlockLibrary(model, factors, torch.bfloat16)
        block = library.master_block(0, "ffn", 64)
        assert block.down_HC.dtype == torch.float32
        assert block.down_HC.is_contiguous()
        expected = repaired(model.layers[0].ffn.down_HC, factors[0, "ffn"], 64)
        assert torch.equal(block.down_HC, expected)
        assert torch.equal(library.block(0, "ffn", 64).down_HC, expected.bfloat16())


class TestCache:
    LIMIT = 40_000  # bytes; a down projection of 64 channels takes 32,768

    def test_the_limit_holds(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_factors(tiny_llama), torch.float32, cache_bytes=self.LIMIT)
        for units in (10, 20, 64, 5, 60, 30, 1):
            library.block(0, "ffn", units)
            held = sum(weight.nbytes for weight in library._cache.values())
            assert held == library._held_bytes
            assert held <= self.LIMIT

    def test_one_that_is_too_large_is_kept_alone(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_factors(tiny_llama), torch.float32, cache_bytes=100)
        library.block(0, "ffn", 64)
        library.block(0, "ffn", 65)
        assert len(library._cache) == 1

    def test_the_least_recently_used_goes_first(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_factors(tiny_llama), torch.float32, cache_bytes=self.LIMIT)
        first = last_projection(library.block(0, "ffn", 20))
        library.block(0, "ffn", 30)
        assert last_projection(library.block(0, "ffn", 20)) is first
        library.block(0, "ffn", 35)
        assert last_projection(library.block(0, "ffn", 20)) is first
        assert {key.units for key in library._cache} == {20, 35}

    def test_values_do_not_depend_on_it(self, tiny_llama: Path) -> None:
        parts = sorted_with_factors(tiny_llama)
        small = BlockLibrary(*parts, torch.float32, cache_bytes=1)
        large = BlockLibrary(*parts, torch.float32)
        for units in (3, 100, 3, 17, 100, 3):
            left, right = small.block(2, "ffn", units), large.block(2, "ffn", units)
            assert torch.equal(last_projection(left), last_projection(right))


def test_num_parameters(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    assert num_parameters(None) == 0
    assert num_parameters(model.layers[0].ffn) == 3 * 192 * 128 + 128
    assert num_parameters(model.layers[0].attention) == 2 * 128 * 128 + 2 * 64 * 128 + 128
