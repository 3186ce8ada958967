"""A repair is the best of what was looked at on unseen text; a parabola says where to look."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.calibrate.library import BlockLibrary
from secateur.calibrate.perplexity import mean_nll
from secateur.calibrate.repair import factorise
from secateur.calibrate.statistics import collect
from secateur.model.dense import Model, build_model, named_tensors
from secateur.model.forward import geometry
from secateur.model.precision import fast_dtype
from secateur.model.source import open_source
from secateur.search.architecture import Architecture, architecture_of
from secateur.slim.repair import Repaired, lowest, repair
from secateur.slim.surgery import cut
from secateur.slim.windows import Split

SHAPE = Architecture((1, 2, 1), (64, 100, 32))
WINDOWS = torch.randint(2, 300, (72, 24), generator=torch.Generator().manual_seed(1))
SPLIT = Split(WINDOWS[:32], WINDOWS[32:56], WINDOWS[:0], WINDOWS[56:])


@pytest.fixture(scope="module")
def library(tiny_llama: Path) -> BlockLibrary:
    source = open_source(tiny_llama)
    model = build_model(source.config, source.tensors(), str(tiny_llama))
    with torch.inference_mode():
        factors = {
            (gram.layer, gram.kind): factorise(gram.gram_NN, torch.arange(len(gram.gram_NN)), 0.01)
            for gram in collect(model, SPLIT.statistics, geometry(model, 24))
        }
    return BlockLibrary(model, factors, fast_dtype())


class Quiet:
    def stage(self, name: str, total: int) -> None: ...
    def step(self, note: str = "", count: int = 1) -> None: ...
    def say(self, line: str) -> None: ...


def unseen_nll(model: Model) -> float:
    return mean_nll(model.to(fast_dtype()), SPLIT.validation)


def repaired(library: BlockLibrary, shape: Architecture, *, in_sequence: bool = True) -> Repaired:
    plain = {shape: unseen_nll(cut(library, shape))}
    return repair(library, plain, SPLIT, Quiet(), in_sequence=in_sequence)[shape]


class TestRepair:
    def test_no_worse_than_one_shot_and_measured(self, library: BlockLibrary) -> None:
        found = repaired(library, SHAPE)
        assert found.nll <= unseen_nll(cut(library, SHAPE))
        assert found.nll == unseen_nll(found.model)
        assert (found.how == "one-shot") == (found.share == 0.0)

    def test_dense_stays_as_it_is(self, library: BlockLibrary) -> None:
        found = repaired(library, architecture_of(library.master))
        assert (found.how, found.share) == ("none", 0.0)

    def test_none_only_cuts(self, library: BlockLibrary) -> None:
        found = repaired(library, SHAPE, in_sequence=False)
        assert found.how == "none"
        expected = named_tensors(cut(library, SHAPE))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in named_tensors(found.model).items())


class TestLowest:
    @given(at=st.floats(0.0, 1.0), bend=st.floats(1e-3, 10.0), floor=st.floats(-5.0, 5.0))
    def test_vertex_of_a_parabola(self, at: float, bend: float, floor: float) -> None:
        values = [floor + bend * (x - at) ** 2 for x in (0.0, 0.5, 1.0)]
        assert lowest(*values) == pytest.approx(at, abs=1e-6)

    @given(at=st.floats(1.0, 9.0), bend=st.floats(1e-3, 10.0))
    def test_never_beyond_the_ends(self, at: float, bend: float) -> None:
        falling = [bend * (x - at) ** 2 for x in (0.0, 0.5, 1.0)]
        assert lowest(*falling) == pytest.approx(1.0)
        assert lowest(*reversed(falling)) == pytest.approx(0.0)

    def test_the_better_end_where_it_bends_down(self) -> None:
        assert lowest(1.0, 2.0, 0.5) == 1.0
        assert lowest(0.5, 2.0, 1.0) == 0.0
        assert lowest(1.0, 1.0, 1.0) == 0.0
