"""The block library: full width is the dense block, widths are views.

Proven: prefixes share storage with the sorted model; the cache keeps its byte limit and never changes a
value.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.repairs import Repairs
from secateur.calibrate.statistics import collect_grams
from secateur.checkpoint.source import open_source
from secateur.model.architecture import KINDS, Slot
from secateur.model.decoder import DecoderModel, SubBlock, tensors_of
from secateur.model.forward import apply_block, embed, forward_context
from secateur.model.units import (
    expand_units,
    last_projection,
    permute,
    unit_span,
)

CPU = torch.device("cpu")
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


@cache
def sorted_with_repairs(folder: Path, seed: int = 0) -> tuple[DecoderModel, dict[Slot, Repairs]]:
    """A model in a random order, and the repairs that go with it."""
    model = load(folder)
    orders = random_orders(model, seed)
    with torch.inference_mode():
        repairs = {
            (gram.layer, gram.kind): Repairs.fit(
                last_projection(model.layers[gram.layer].sub_block(gram.kind)),
                gram.gram_NN,
                expand_units(orders[gram.layer, gram.kind], unit_span(model, gram.kind)),
                0.01,
                unit_span(model, gram.kind),
            )
            for gram in collect_grams(model, TOKENS, forward_context(model, TOKENS.shape[1]))
        }
    return permute(model, orders), repairs


def shares_storage(part: SubBlock, whole: SubBlock, *, but: str) -> bool:
    wholes = tensors_of(whole)
    return all(
        tensor.untyped_storage().data_ptr() == wholes[name].untyped_storage().data_ptr()
        for name, tensor in tensors_of(part).items()
        if name != but
    )


class TestBlockLibrary:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    def test_full_width_is_the_dense_block_itself(self, dtype: torch.dtype, tiny_model: Path) -> None:
        model, repairs = sorted_with_repairs(tiny_model)
        library = BlockLibrary(model, repairs, dtype)
        assert library.model.dtype == dtype
        for layer in range(3):
            for kind in KINDS:
                full = library.block(layer, kind, model.width(layer, kind))
                assert full is library.model.layers[layer].sub_block(kind)
        if dtype == model.dtype:
            assert library.model is library.master is model

    def test_zero_is_no_block(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_repairs(tiny_llama), torch.float32)
        assert library.block(0, "ffn", 0) is None and library.master_block(0, "attention", 0) is None

    @pytest.mark.parametrize(("kind", "units"), [("attention", 1), ("ffn", 7), ("ffn", 191)])
    def test_views_and_a_repaired_projection(self, kind: str, units: int, tiny_model: Path) -> None:
        model, repairs = sorted_with_repairs(tiny_model)
        library = BlockLibrary(model, repairs, torch.float32)
        block, full = library.block(1, kind, units), model.layers[1].sub_block(kind)
        but = "output_HQ" if kind == "attention" else "down_HC"
        assert shares_storage(block, full, but=but)
        expected = repairs[1, kind].projection(units * unit_span(model, kind), CPU)
        assert torch.equal(last_projection(block), expected)

    def test_without_repairs_a_plain_cut(self, tiny_llama: Path) -> None:
        model, _ = sorted_with_repairs(tiny_llama)
        block = BlockLibrary(model, None, torch.float32).block(0, "ffn", 50)
        assert torch.equal(last_projection(block), model.layers[0].ffn.down_HC[:, :50])

    def test_repair_helps(self, tiny_llama: Path) -> None:
        """On the calibration tokens, the output of the first sub-block is nearer to the dense one."""
        model, repairs = sorted_with_repairs(tiny_llama)
        context = forward_context(model, TOKENS.shape[1])
        dense = apply_block(embed(model, TOKENS), model.layers[0].attention, context, 0)
        errors = {}
        for name, library in (
            ("cut", BlockLibrary(model, None, torch.float32)),
            ("repaired", BlockLibrary(model, repairs, torch.float32)),
        ):
            found = apply_block(embed(model, TOKENS), library.block(0, "attention", 1), context, 0)
            errors[name] = float((found - dense).square().sum())
        assert errors["repaired"] < errors["cut"]
        announced = BlockLibrary(model, repairs, torch.float32).errors(0, "attention", [1])[0]
        assert errors["repaired"] <= announced * 1.001

    def test_errors_fall_with_the_width(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_repairs(tiny_llama), torch.float32)
        errors = library.errors(1, "ffn", [0, 64, 128, 192])
        assert errors == sorted(errors, reverse=True) and errors[-1] == 0.0

    def test_errors_without_repairs(self, tiny_llama: Path) -> None:
        model, _ = sorted_with_repairs(tiny_llama)
        assert BlockLibrary(model, None, torch.float32).errors(0, "ffn", [0, 10]) == [0.0, 0.0]

    def test_master_block_keeps_the_stored_dtype_and_owns_its_memory(self, tiny_llama: Path) -> None:
        model, repairs = sorted_with_repairs(tiny_llama)
        library = BlockLibrary(model, repairs, torch.bfloat16)
        block = library.master_block(0, "ffn", 64)
        assert block.down_HC.dtype == torch.float32
        assert block.down_HC.is_contiguous()
        expected = repairs[0, "ffn"].projection(64, CPU)
        assert torch.equal(block.down_HC, expected)
        assert torch.equal(library.block(0, "ffn", 64).down_HC, expected.bfloat16())


class TestCache:
    LIMIT = 40_000  # bytes; a down projection of 64 channels takes 32,768

    def test_the_limit_holds(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_repairs(tiny_llama), torch.float32, cache_bytes=self.LIMIT)
        for units in (10, 20, 64, 5, 60, 30, 1):
            library.block(0, "ffn", units)
            held = sum(weight.nbytes for weight in library._cache.values())
            assert held == library._cached_bytes
            assert held <= self.LIMIT

    def test_one_that_is_too_large_is_kept_alone(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_repairs(tiny_llama), torch.float32, cache_bytes=100)
        library.block(0, "ffn", 64)
        library.block(0, "ffn", 65)
        assert len(library._cache) == 1

    def test_the_least_recently_used_goes_first(self, tiny_llama: Path) -> None:
        library = BlockLibrary(*sorted_with_repairs(tiny_llama), torch.float32, cache_bytes=self.LIMIT)
        first = last_projection(library.block(0, "ffn", 20))
        library.block(0, "ffn", 30)
        assert last_projection(library.block(0, "ffn", 20)) is first
        library.block(0, "ffn", 35)
        assert last_projection(library.block(0, "ffn", 20)) is first
        assert {units for _, _, units in library._cache} == {20, 35}

    def test_values_do_not_depend_on_it(self, tiny_llama: Path) -> None:
        parts = sorted_with_repairs(tiny_llama)
        small = BlockLibrary(*parts, torch.float32, cache_bytes=1)
        large = BlockLibrary(*parts, torch.float32)
        for units in (3, 100, 3, 17, 100, 3):
            left, right = small.block(2, "ffn", units), large.block(2, "ffn", units)
            assert torch.equal(last_projection(left), last_projection(right))
