"""Cutting: a slim model is the dense one with units put out of action, and full width is the dense one.

Proven before repair, for every family, with transformers as the judge: cut = masked. After repair:
sequential repair corrects drift, keeps what is full, and repeats to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.repairs import Repairs
from secateur.calibrate.statistics import collect_grams
from secateur.checkpoint.source import open_source
from secateur.model.architecture import KINDS, Architecture
from secateur.model.decoder import DecoderModel, architecture_of, named_tensors
from secateur.model.forward import apply_block, embed, forward_context, hidden_states, rms_norm
from secateur.model.mapped import on_disk
from secateur.model.units import expand_units, last_projection, permute, unit_span
from secateur.prune.surgery import Damping, build_slim_model, interpolate, repair_in_sequence

TOKENS = torch.randint(2, 300, (3, 24), generator=torch.Generator().manual_seed(0))
CALIBRATION = torch.randint(2, 300, (40, 24), generator=torch.Generator().manual_seed(1))
SHAPES = {
    "mixed": Architecture((1, 2, 1), (64, 192, 7)),
    "no-attention-in-one": Architecture((2, 0, 1), (192, 100, 64)),
    "no-ffn-in-one": Architecture((1, 2, 2), (0, 192, 191)),
    "a-layer-gone": Architecture((2, 0, 2), (192, 0, 192)),
    "next-to-nothing": Architecture((1, 0, 0), (0, 0, 0)),
    "nothing-removed": Architecture((2, 2, 2), (192, 192, 192)),
}
Orders = dict[tuple[int, str], Tensor]


def load(folder: Path) -> DecoderModel:
    source = open_source(folder)
    return source.load_model()


def random_orders(model: DecoderModel, seed: int = 0) -> Orders:
    generator = torch.Generator().manual_seed(seed)
    return {
        (layer, kind): torch.randperm(model.width(layer, kind), generator=generator)
        for layer in range(model.num_layers)
        for kind in KINDS
    }


def logits(model: DecoderModel) -> Tensor:
    with torch.inference_mode():
        return hidden_states(model, TOKENS, forward_context(model, TOKENS.shape[1])) @ model.head_VH.T


def masked(folder: Path, model: DecoderModel, orders: Orders, shape: Architecture) -> PreTrainedModel:
    """The dense model in transformers, nothing reading the units that `shape` removes."""
    judge = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        for index, layer in enumerate(judge.model.layers):
            for kind, projection in (("attention", layer.self_attn.o_proj), ("ffn", layer.mlp.down_proj)):
                kept = shape.width(index, kind)
                removed = expand_units(orders[index, kind][kept:], unit_span(model, kind))
                projection.weight[:, removed] = 0
                if kept == 0 and projection.bias is not None:
                    projection.bias.zero_()
    return judge


def assert_masked(folder: Path, shape: Architecture) -> None:
    model = load(folder)
    orders = random_orders(model)
    slim = build_slim_model(BlockLibrary(permute(model, orders), None, torch.float32), shape)
    assert architecture_of(slim) == shape
    with torch.inference_mode():
        expected = masked(folder, model, orders, shape)(TOKENS).logits
    assert float((logits(slim) - expected).abs().max()) < 2e-5 * float(expected.abs().max())


class TestCut:
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_equals_the_masked_dense_model(self, shape: Architecture, tiny_model: Path) -> None:
        assert_masked(tiny_model, shape)

    def test_with_biases(self, make_tiny: Callable[..., Path]) -> None:
        folder = make_tiny("llama", attention_bias=True, mlp_bias=True)
        assert_masked(folder, SHAPES["mixed"])
        assert_masked(folder, SHAPES["a-layer-gone"])

    def test_full_width_is_the_dense_model_to_the_bit(self, tiny_model: Path) -> None:
        model = load(tiny_model)
        dense = build_slim_model(BlockLibrary(model, None, torch.bfloat16), architecture_of(model))
        expected, found = named_tensors(model), named_tensors(dense)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.equal(logits(dense), logits(model))

    def test_what_is_not_cut_is_left_alone(self, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        slim = build_slim_model(BlockLibrary(model, None, torch.float32), SHAPES["mixed"])
        assert slim.embedding_VH is model.embedding_VH and slim.final_norm_H is model.final_norm_H
        assert slim.layers[1].ffn is not None
        assert torch.equal(slim.layers[1].ffn.down_HC, model.layers[1].ffn.down_HC)


@pytest.fixture(scope="module")
def library(tiny_llama: Path) -> BlockLibrary:
    """Repaired from calibration tokens, units in the order they have."""
    model = load(tiny_llama)
    with torch.inference_mode():
        repairs = {
            (gram.layer, gram.kind): Repairs.fit(
                last_projection(model.layers[gram.layer].sub_block(gram.kind)),
                gram.gram_NN,
                torch.arange(len(gram.gram_NN)),
                0.01,
            )
            for gram in collect_grams(model, CALIBRATION, forward_context(model, 24))
        }
    return BlockLibrary(model, repairs, torch.float32)


FITS = Damping(inputs=0.3, last=0.03)


def in_sequence(library: BlockLibrary, shape: Architecture, shrinkage: Damping = FITS) -> DecoderModel:
    with torch.inference_mode():
        (slim,) = repair_in_sequence(library, [shape], CALIBRATION, shrinkage=shrinkage)
        return slim


def residual_error(model: DecoderModel, dense: DecoderModel) -> float:
    """Squared distance of what the heads read, on the calibration windows, the final norm left out."""
    ones = torch.ones_like(dense.final_norm_H)
    bare = [replace(one, final_norm_H=ones) for one in (model, dense)]
    with torch.inference_mode():
        slim, full = (hidden_states(one, CALIBRATION, forward_context(one, 24)) for one in bare)
    return float((slim - full).square().mean())


@torch.inference_mode()
def up_projected(model: DecoderModel, layer: int) -> Tensor:
    """What the up projection of a layer makes of the calibration windows."""
    context, state = forward_context(model, 24), embed(model, CALIBRATION)
    for index in range(layer):
        for block in (model.layers[index].attention, model.layers[index].ffn):
            state = apply_block(state, block, context, index)
    state = apply_block(state, model.layers[layer].attention, context, layer)
    ffn = model.layers[layer].ffn
    assert ffn is not None
    return rms_norm(state, ffn.norm_H, context.norm_eps) @ ffn.up_CH.T


class TestRepairInSequence:
    @pytest.mark.parametrize("name", ["mixed", "no-attention-in-one", "no-ffn-in-one"])
    def test_is_nearer_to_the_dense_model(self, name: str, library: BlockLibrary) -> None:
        shape = SHAPES[name]
        plain = build_slim_model(BlockLibrary(library.master, None, torch.float32), shape)
        one_shot, sequence = build_slim_model(library, shape), in_sequence(library, shape)
        errors = [residual_error(model, library.master) for model in (plain, one_shot, sequence)]
        assert errors[2] < errors[1] < errors[0]

    @pytest.mark.parametrize("inputs", [0.3, math.inf])
    def test_only_projections_change(self, inputs: float, library: BlockLibrary) -> None:
        """All of them, or the last ones alone."""
        one_shot = build_slim_model(library, SHAPES["mixed"])
        sequence = in_sequence(library, SHAPES["mixed"], Damping(inputs, 0.03))
        before, after = named_tensors(one_shot), named_tensors(sequence)
        assert after.keys() == before.keys()
        last = ("o_proj.weight", "down_proj.weight")
        for name in before:
            moved = name.endswith(last) if math.isinf(inputs) else "_proj." in name
            assert moved or torch.equal(before[name], after[name]), name
            assert before[name].shape == after[name].shape

    def test_input_projections_see_the_dense_stream_again(self, library: BlockLibrary) -> None:
        """What the second FFN computes before its gate is nearer to the dense one's than without the fit."""
        shape, teacher = SHAPES["mixed"], library.master
        errors = []
        for inputs in (0.01, math.inf):
            slim = in_sequence(library, shape, Damping(inputs, 0.03))
            found, wanted = (up_projected(model, layer=1) for model in (slim, teacher))
            errors.append(float((found - wanted[..., : found.shape[-1]]).square().mean()))
        assert errors[0] < errors[1]

    def test_full_width_stays_dense(self, library: BlockLibrary) -> None:
        """There is nothing to correct: the update is rounding."""
        shape = SHAPES["nothing-removed"]
        before = named_tensors(build_slim_model(library, shape))
        for name, tensor in named_tensors(in_sequence(library, shape)).items():
            assert torch.allclose(tensor, before[name], atol=1e-4), name

    def test_what_is_removed_stays_removed(self, library: BlockLibrary) -> None:
        shape = SHAPES["a-layer-gone"]
        assert architecture_of(in_sequence(library, shape)) == shape

    def test_strong_shrinkage_keeps_the_projection(self, library: BlockLibrary) -> None:
        before = named_tensors(build_slim_model(library, SHAPES["mixed"]))
        for name, tensor in named_tensors(in_sequence(library, SHAPES["mixed"], Damping(1e9, 1e9))).items():
            assert torch.allclose(tensor, before[name], atol=1e-5), name

    def test_same_bits_twice(self, library: BlockLibrary) -> None:
        first, second = (named_tensors(in_sequence(library, SHAPES["mixed"])) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_several_at_once_are_what_each_is_alone(self, library: BlockLibrary) -> None:
        shapes = [SHAPES[name] for name in ("mixed", "no-attention-in-one", "a-layer-gone")]
        with torch.inference_mode():
            together = repair_in_sequence(library, shapes, CALIBRATION, shrinkage=FITS)
        for shape, slim in zip(shapes, together, strict=True):
            alone = named_tensors(in_sequence(library, shape))
            assert all(torch.equal(tensor, alone[name]) for name, tensor in named_tensors(slim).items())

    def test_one_step_per_sub_block(self, library: BlockLibrary) -> None:
        steps: list[None] = []
        with torch.inference_mode():
            shapes = [SHAPES[name] for name in ("mixed", "a-layer-gone")]
            repair_in_sequence(library, shapes, CALIBRATION, advance=lambda: steps.append(None))
        assert len(steps) == 6

    def test_in_bf16_it_keeps_the_stored_dtype(self, library: BlockLibrary) -> None:
        fast = BlockLibrary(library.master, library._repairs, torch.bfloat16)
        sequence = in_sequence(fast, SHAPES["mixed"])
        assert {tensor.dtype for tensor in named_tensors(sequence).values()} == {torch.float32}
        plain = build_slim_model(BlockLibrary(library.master, None, torch.float32), SHAPES["mixed"])
        assert residual_error(sequence, library.master) < residual_error(plain, library.master)

    def test_what_is_fitted_may_lie_on_disk(self, library: BlockLibrary, tmp_path: Path) -> None:
        """The same bits, in files that are gone already."""
        with torch.inference_mode():
            (mapped,) = repair_in_sequence(
                library,
                [SHAPES["mixed"]],
                CALIBRATION,
                shrinkage=FITS,
                keep=lambda block: on_disk(block, tmp_path),
            )
        alone = named_tensors(in_sequence(library, SHAPES["mixed"]))
        assert all(torch.equal(tensor, alone[name]) for name, tensor in named_tensors(mapped).items())
        assert not list(tmp_path.iterdir())
        with open("/proc/self/maps", encoding="utf-8") as maps:
            assert sum(f"{tmp_path}/.weights-" in line for line in maps) == 6


def between(one: DecoderModel, other: DecoderModel, share: float) -> DecoderModel:
    return replace(one, layers=tuple(interpolate(one.layers, other.layers, share)))


class TestBlend:
    @pytest.mark.parametrize("name", ["mixed", "a-layer-gone"])
    def test_ends_are_the_two_models(self, name: str, library: BlockLibrary) -> None:
        one, other = build_slim_model(library, SHAPES[name]), in_sequence(library, SHAPES[name])
        for share, end in ((0.0, one), (1.0, other)):
            expected = named_tensors(end)
            found = named_tensors(between(one, other, share))
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected)

    def test_between_them_weights_are(self, library: BlockLibrary) -> None:
        one, other = build_slim_model(library, SHAPES["mixed"]), in_sequence(library, SHAPES["mixed"])
        before, after = named_tensors(one), named_tensors(other)
        for key, tensor in named_tensors(between(one, other, 0.25)).items():
            torch.testing.assert_close(tensor, 0.75 * before[key] + 0.25 * after[key])
