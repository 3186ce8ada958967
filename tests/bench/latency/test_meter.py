"""A table is measured once: for the same conditions it comes from the cache, for others it does not.

vLLM is stood in for by a clock; `benchmarks.latency_budget` has the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from secateur.bench.latency import cache, meter
from secateur.checkpoint.source import open_source
from secateur.errors import BackendUnavailable, BadInput
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.progress import SilentReporter
from secateur.space.costs.latency import LatencyConditions, LatencyTable, ModelShape


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(meter, "on_cpu", lambda: True)
    monkeypatch.setattr(meter, "version", lambda package: "0.32.0")
    return tmp_path / "cache"


@pytest.fixture
def model(tiny_llama: Path) -> DecoderModel:
    source = open_source(tiny_llama)
    return source.load_model()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[LatencyConditions]:
    """Measurements made."""
    made: list[LatencyConditions] = []

    def timed(
        config: object, items: tuple[Architecture, ...], conditions: LatencyConditions, reporter: object
    ) -> dict:
        made.append(conditions)
        return {item: [[1000 + 100 * sum(item.groups) + sum(item.channels)] * 8] * 9 for item in items}

    monkeypatch.setattr(meter, "time_decoding", timed)
    return made


def test_measured_once(model: DecoderModel, runs: list[LatencyConditions], own_cache: Path) -> None:
    first = meter.get_latency_table(model, "bfloat16", 1, 128, SilentReporter())
    again = meter.get_latency_table(model, "bfloat16", 1, 128, SilentReporter())
    assert first == again and len(runs) == 1
    assert [file.name for file in own_cache.rglob("*.json")] == [cache.table_path(first.conditions).name]
    assert first.rows["ffn"][192] == pytest.approx(192, rel=0.01)
    assert max(map(abs, first.report["error_of_mixed_before_they_were_fitted"])) < 0.01


@pytest.mark.parametrize("other", [("float32", 1, 128), ("bfloat16", 8, 128), ("bfloat16", 1, 64)])
def test_measured_again_for_other_conditions(
    other: tuple[str, int, int], model: DecoderModel, runs: list[LatencyConditions]
) -> None:
    meter.get_latency_table(model, "bfloat16", 1, 128, SilentReporter())
    meter.get_latency_table(model, *other, SilentReporter())
    assert len(runs) == 2


def test_a_broken_file_is_measured_again(model: DecoderModel, runs: list[LatencyConditions]) -> None:
    table = meter.get_latency_table(model, "bfloat16", 1, 128, SilentReporter())
    cache.table_path(table.conditions).write_text('{"conditions": ')
    assert meter.get_latency_table(model, "bfloat16", 1, 128, SilentReporter()) == table
    assert len(runs) == 2


def test_a_context_that_the_model_does_not_have(model: DecoderModel, runs: list[LatencyConditions]) -> None:
    with pytest.raises(BadInput, match="context: got 500: the model's context is 512 tokens"):
        meter.get_latency_table(model, "bfloat16", 1, 500, SilentReporter())
    assert not runs


def test_an_engine_that_does_not_start_is_one_line(
    model: DecoderModel, monkeypatch: pytest.MonkeyPatch, make_tiny: Callable[..., Path]
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    conditions = meter.current_conditions(model, "bfloat16", 1, 128)
    with pytest.raises(BackendUnavailable, match="vLLM could not be timed"):
        meter.time_decoding(model.config, [Architecture((2,) * 3, (192,) * 3)], conditions, SilentReporter())


def test_tables_of_other_conditions_are_not_mixed_up() -> None:
    shape = ModelShape("llama", 2, 64, 32, 2, 2, 96, 300)
    conditions = LatencyConditions("a", "b", "c", 1, 256, shape)
    rows = {"attention": {0: 0, 2: 1}, "ffn": {0: 0, 96: 1}}
    cache.store_table(LatencyTable(conditions, 1, rows))
    assert cache.load_cached_table(conditions) is not None
    assert cache.load_cached_table(replace(conditions, model=replace(shape, hidden=65))) is None
