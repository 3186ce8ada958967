"""Times become speeds, floors and ratios; vLLM itself on tiny models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from secateur.bench.models import read_config
from secateur.bench.offline.ceilings import matmul_rate, memory_bandwidth
from secateur.bench.offline.meter import OfflineTimings, document, measure
from secateur.bench.shape import read_shape
from secateur.config.bench import BenchOptions
from secateur.errors import BackendUnavailable, BadInput
from secateur.progress import SilentReporter
from secateur.report.offline_tables import offline_tables


@pytest.fixture
def options(tiny_llama: Path, tiny_qwen3: Path) -> BenchOptions:
    folders = (f"dense={tiny_llama}", f"slim={tiny_qwen3}")
    return BenchOptions(offline=folders, batch=(1, 4), rounds=3, input_len=24, context=24, dtype="float32")


def test_speeds_floors_and_ratios(options: BenchOptions) -> None:
    shapes = {name: read_shape(folder, read_config(folder)) for name, folder in options.folders.items()}
    times = OfflineTimings(bandwidth=[5e9, 1e10], product_rate=[1e11, 9e10])
    for model, step in (("dense", 0.010), ("slim", 0.005)):
        for batch in options.batch:
            times.decode[model, batch] = [[step * drift] * 4 for drift in (1.0, 1.3, 0.9)]
            times.prefill[model, batch] = [3 * step * batch * drift for drift in (1.0, 1.3, 0.9)]
    found = document(options, shapes, times, {"versions": {}})
    dense = found["results"][0]
    assert (dense["model"], dense["batch"], dense["decode"]["step_ms"]) == ("dense", 1, 10.0)
    assert dense["decode"]["tokens_per_second"] == pytest.approx(100)
    read = shapes["dense"].decode_bytes(1, 24, "float32") / 1e10  # the best that was measured
    assert dense["decode"]["bandwidth_floor_ms"] == pytest.approx(1e3 * read, abs=1e-4)
    assert dense["decode"]["times_bandwidth_floor"] == pytest.approx(0.01 / read, rel=1e-3)
    assert dense["prefill"]["tokens_per_second"] == pytest.approx(24 / 0.03)
    for row in found["speedups"]:
        assert row["decode"]["speedup"] == pytest.approx(2) == pytest.approx(row["prefill"]["speedup"])
        assert row["decode"]["kept_of_promise"] == pytest.approx(2 / row["decode"]["promised"], rel=1e-3)
    assert len(list(offline_tables(found))) == 2


def test_ceilings_are_plausible() -> None:
    assert 1e9 < memory_bandwidth() < 1e13
    assert 1e9 < matmul_rate("float32") < 1e16


def test_a_context_that_the_model_does_not_have(tiny_llama: Path) -> None:
    with pytest.raises(BadInput, match=r"input_len: got 600: the context of .* is 512"):
        measure(BenchOptions(offline=(str(tiny_llama),), input_len=600), SilentReporter())


def test_an_engine_that_does_not_start_is_one_line(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(BackendUnavailable, match="vLLM could not be timed"):
        measure(options, SilentReporter())


def test_vllm_itself(tiny_llama: Path) -> None:
    pytest.importorskip("vllm")
    options = BenchOptions(
        offline=(f"tiny={tiny_llama}",), batch=(1, 3), rounds=2, input_len=24, context=24, dtype="float32"
    )
    found = measure(options, SilentReporter())
    assert [(row["model"], row["batch"]) for row in found["results"]] == [("tiny", 1), ("tiny", 3)]
    for row in found["results"]:
        assert row["decode"]["step_ms"] > row["decode"]["floor_ms"] > 0
        assert len(row["decode"]["steps_ms_of_rounds"]) == len(row["prefill"]["seconds_of_rounds"]) == 2
        assert row["prefill"]["tokens_per_second"] > row["decode"]["tokens_per_second"] / row["batch"]
    assert found["environment"]["versions"]["torch"]
