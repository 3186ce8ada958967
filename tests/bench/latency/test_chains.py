"""Sub-blocks timed by themselves: what is built, what a table makes of it, and vLLM's own layers, timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.bench.latency.chains import (
    build_chains,
    chained_architecture,
    errors_left_out,
    fit_to_models,
    rows_of,
)
from secateur.bench.latency.meter import current_conditions, time_chains
from secateur.bench.latency.probes import build_probes, predict_nanoseconds
from secateur.bench.latency.worker import ROUNDS, STEPS
from secateur.checkpoint.source import open_source
from secateur.model.architecture import Architecture
from secateur.progress import SilentReporter
from secateur.space.costs.latency import ModelShape

SHAPE = ModelShape("llama", 32, 4096, 128, 4, 8, 14336, 128256)
CHAINS = build_chains(SHAPE, 2)


def chain_ns(kind: str, width: int) -> float:
    return 20_000 + 9_000 * width if kind == "attention" else 15_000 + 11 * width


TIMES = [chain_ns(chain.kind, chain.width) * len(chain.layers) for chain in CHAINS]


def test_every_layer_is_in_one_chain() -> None:
    made_up = chained_architecture(CHAINS)
    assert [layer for chain in CHAINS for layer in chain.layers] == list(range(made_up.num_layers))
    for chain in CHAINS:
        for layer in chain.layers:
            assert made_up.width(layer, chain.kind) == chain.width > 0
            assert made_up.groups[layer] * made_up.channels[layer] == 0  # one sub-block, and no other


def test_chains_are_longer_than_caches_and_shorter_than_the_model() -> None:
    quarter = next(chain for chain in CHAINS if chain.kind == "ffn")
    assert quarter.width == 3584 and len(quarter.layers) * 3 * 4096 * 3584 * 2 >= 2**28
    assert {
        len(chain.layers) for chain in build_chains(ModelShape("llama", 3, 64, 16, 2, 2, 96, 300), 4)
    } == {3}


def test_rows_have_the_widths_of_the_probes() -> None:
    rows = rows_of(CHAINS, TIMES)
    assert sorted(rows["attention"]) == [0, 3, 5, 8] and sorted(rows["ffn"]) == [0, 3584, 7168, 10752, 14336]
    assert rows["ffn"][7168] == 15_000 + 11 * 7168 and rows["attention"][0] == 0
    assert rows_of(CHAINS[:2], [9000.0 * len(CHAINS[0].layers), 1.0])["attention"] == {0: 0, 3: 9000, 5: 9000}


def test_whole_models_give_the_fixed_cost_and_a_scale() -> None:
    """An engine whose layers take 8 % longer together than in chains is found again, from four models."""
    rows = rows_of(CHAINS, TIMES)
    probes = build_probes(SHAPE)
    models = (probes.uniform[0], *probes.mixed)
    step = [3e6 + 1.08 * predict_nanoseconds(0, rows, item) for item in models]
    assert max(map(abs, errors_left_out(rows, models, step))) < 1e-6
    fixed, fitted = fit_to_models(rows, models, step)
    assert fixed == pytest.approx(3e6, rel=1e-3)
    narrow = Architecture((3,) * 32, (3584,) * 32)
    assert predict_nanoseconds(fixed, fitted, narrow) == pytest.approx(
        3e6 + 1.08 * predict_nanoseconds(0, rows, narrow), rel=1e-4
    )


def test_a_model_that_does_not_add_up_is_seen() -> None:
    rows = rows_of(CHAINS, TIMES)
    probes = build_probes(SHAPE)
    models = (probes.uniform[0], *probes.mixed)
    step = [3e6 + predict_nanoseconds(0, rows, item) for item in models]
    step[2] *= 1.3
    assert max(map(abs, errors_left_out(rows, models, step))) > 0.1


@pytest.mark.slow
def test_layers_of_the_plugin_are_timed_in_an_engine(tiny_llama: Path) -> None:
    pytest.importorskip("vllm")
    model = open_source(tiny_llama).load_model()
    conditions = current_conditions(model, "float32", 2, 64)
    chains = build_chains(conditions.model, 4)
    turns = time_chains(model.config, chains, conditions, SilentReporter())
    assert [len(turn) for turn in turns] == [ROUNDS] * len(chains)
    assert all(len(passes) == STEPS - 1 and min(passes) > 1000 for turn in turns for passes in turn)
