"""A repair is the best of what was looked at on unseen text; a parabola says where to look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.repairs import Repairs
from secateur.calibrate.statistics import collect_grams
from secateur.checkpoint.source import open_source
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel, architecture_of, named_tensors
from secateur.model.forward import forward_context, hidden_states, mean_nll
from secateur.model.processor import fastest_dtype
from secateur.model.units import last_projection
from secateur.prune.repair import RepairResult, parabola_minimum, repair
from secateur.prune.surgery import build_slim_model, interpolate, repair_in_sequence
from secateur.prune.windows import WindowSplit

SHAPE = Architecture((1, 2, 1), (64, 100, 32))
LENGTH = 24


@pytest.fixture(scope="module")
def dense(tiny_llama: Path) -> DecoderModel:
    source = open_source(tiny_llama)
    return source.load_model()


@pytest.fixture(scope="module")
def split(dense: DecoderModel) -> WindowSplit:
    """Text that the model draws: being near the model is being good at it."""
    chance = torch.Generator().manual_seed(0)
    text_BT = torch.randint(2, 300, (72, 1), generator=chance)
    with torch.no_grad():
        while text_BT.shape[1] < LENGTH:
            hidden_BH = hidden_states(dense, text_BT, forward_context(dense, text_BT.shape[1]))[:, -1]
            drawn_B1 = torch.multinomial((hidden_BH @ dense.head_VH.T).softmax(-1), 1, generator=chance)
            text_BT = torch.cat([text_BT, drawn_B1], 1)
    return WindowSplit(text_BT[:32], text_BT[32:56], text_BT[:0], text_BT[56:], {})


@pytest.fixture(scope="module")
def library(dense: DecoderModel, split: WindowSplit) -> BlockLibrary:
    with torch.inference_mode():
        repairs = {
            (gram.layer, gram.kind): Repairs.fit(
                last_projection(dense.layers[gram.layer].sub_block(gram.kind)),
                gram.gram_NN,
                torch.arange(len(gram.gram_NN)),
                0.01,
            )
            for gram in collect_grams(dense, split.statistics, forward_context(dense, LENGTH))
        }
    return BlockLibrary(dense, repairs, fastest_dtype())


class Quiet:
    def stage(self, name: str, total: int) -> None: ...
    def step(self, note: str = "", count: int = 1) -> None: ...
    def message(self, line: str) -> None: ...


def unseen_nll(model: DecoderModel, split: WindowSplit) -> float:
    return mean_nll(model.to(fastest_dtype()), split.validation)


def same_weights(one: DecoderModel, other: DecoderModel) -> bool:
    expected = named_tensors(other)
    return all(torch.equal(tensor, expected[name]) for name, tensor in named_tensors(one).items())


def model_of(library: BlockLibrary, found: RepairResult) -> DecoderModel:
    return replace(library.master, layers=tuple(found.layers()))


class TestRepair:
    def test_better_than_either_end_and_measured(self, library: BlockLibrary, split: WindowSplit) -> None:
        one_shot = build_slim_model(library, SHAPE)
        plain = unseen_nll(one_shot, split)
        found = repair(library, {SHAPE: plain}, split, Quiet(), in_sequence=True)[SHAPE]
        with torch.inference_mode():
            (fitted,) = repair_in_sequence(library, [SHAPE], split.repair)
        assert found.how == "in-sequence" and 0 < found.share < 1
        assert found.nll < min(plain, unseen_nll(fitted, split))
        assert found.nll == unseen_nll(model_of(library, found), split)
        blend = interpolate(one_shot.layers, fitted.layers, found.share)
        assert same_weights(model_of(library, found), replace(one_shot, layers=tuple(blend)))

    def test_one_shot_where_nothing_is_better(self, library: BlockLibrary, split: WindowSplit) -> None:
        found = repair(library, {SHAPE: 0.0}, split, Quiet(), in_sequence=True)[SHAPE]
        assert (found.how, found.share, found.nll) == ("one-shot", 0.0, 0.0)
        assert same_weights(model_of(library, found), build_slim_model(library, SHAPE))

    def test_dense_stays_as_it_is(self, library: BlockLibrary, split: WindowSplit) -> None:
        whole = architecture_of(library.master)
        found = repair(library, {whole: 5.0}, split, Quiet(), in_sequence=True)[whole]
        assert (found.how, found.share) == ("none", 0.0)
        assert same_weights(model_of(library, found), library.master)

    def test_none_only_cuts(self, library: BlockLibrary, split: WindowSplit) -> None:
        found = repair(library, {SHAPE: 5.0}, split, Quiet(), in_sequence=False)[SHAPE]
        assert found.how == "none"
        assert same_weights(model_of(library, found), build_slim_model(library, SHAPE))


class TestLowest:
    @given(at=st.floats(0.0, 1.0), bend=st.floats(1e-3, 10.0), floor=st.floats(-5.0, 5.0))
    def test_vertex_of_a_parabola(self, at: float, bend: float, floor: float) -> None:
        values = [floor + bend * (x - at) ** 2 for x in (0.0, 0.5, 1.0)]
        assert parabola_minimum(*values) == pytest.approx(at, abs=1e-6)

    @given(at=st.floats(1.0, 9.0), bend=st.floats(1e-3, 10.0))
    def test_never_beyond_the_ends(self, at: float, bend: float) -> None:
        falling = [bend * (x - at) ** 2 for x in (0.0, 0.5, 1.0)]
        assert parabola_minimum(*falling) == pytest.approx(1.0)
        assert parabola_minimum(*reversed(falling)) == pytest.approx(0.0)

    def test_the_better_end_where_it_bends_down(self) -> None:
        assert parabola_minimum(1.0, 2.0, 0.5) == 1.0
        assert parabola_minimum(0.5, 2.0, 1.0) == 0.0
        assert parabola_minimum(1.0, 1.0, 1.0) == 0.0
