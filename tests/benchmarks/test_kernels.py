"""What the kernel benchmark computes from its measurements. The cases themselves are not run here."""

import pytest
import torch
from torch import Tensor

from benchmarks.kernels import models
from benchmarks.kernels.case import BASELINE, Call, Case, Inputs, Missing, Provider
from benchmarks.kernels.ceilings import Ceilings
from benchmarks.kernels.measurement import LATE, rows_of
from benchmarks.kernels.row import Accuracy, Row, accuracy, floor_ms
from benchmarks.kernels.timing import Times, clock, peak_extra_bytes, summary
from secateur_kernels.work import Work

CPU = torch.device("cpu")
CEILINGS = Ceilings(flops_per_second=1e9, bytes_per_second=1e8, product=1, copied=1)


def row(error: float) -> Row:
    times = Times(7, median=4.0, p20=3.0, p80=5.0)
    measured = Accuracy(error, allowed=0.1)
    return Row(
        "k", "p", "s", "fp32", "cpu", Work(10**6, 10**4), 1.0, times=times, accuracy=measured, eager_ms=8.0
    )


def test_the_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    assert floor_ms(Work(10**6, 10**4), CEILINGS) == pytest.approx(1.0)
    assert floor_ms(Work(10**6, 10**6), CEILINGS) == pytest.approx(10.0)


def test_the_ratio_is_the_floor_over_the_median() -> None:
    assert row(error=0.0).ratio == pytest.approx(0.25)


def test_a_speed_up_needs_a_green_gate() -> None:
    assert row(error=0.1).speed_up == pytest.approx(2.0)
    for wrong in (0.2, float("nan")):
        red = row(error=wrong)
        assert red.speed_up is None
        assert red.document()["gate"] == "red" and red.document()["speed_up_over_eager"] is None


def test_accuracy_allows_twice_the_error_of_eager() -> None:
    true = torch.tensor([1.0, 0.0], dtype=torch.float64)
    eager = torch.tensor([1.0, 0.01])
    assert accuracy(torch.tensor([1.0, 0.019]), eager, true).green
    assert not accuracy(torch.tensor([1.0, 0.021]), eager, true).green


def test_a_summary_is_of_medians() -> None:
    times = summary([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (times.samples, times.median) == (5, 3.0)
    assert times.p20 < times.median < times.p80


def test_peak_memory_of_a_call() -> None:
    megabytes = 64
    peak = peak_extra_bytes(CPU, lambda: torch.ones(megabytes << 20, dtype=torch.uint8))
    if peak is None:
        pytest.skip("this system does not tell the peak")
    assert megabytes << 20 <= peak + (1 << 20) and peak < (megabytes + 32) << 20


def doubling(*, only_gpu: bool = False) -> Case:
    x_N = torch.arange(8.0)

    def missing() -> Call:
        raise Missing("nobody made it")

    def not_installed() -> Call:
        raise ImportError("no module of that name")

    def broken() -> Call:
        def call() -> Tensor:
            raise RuntimeError("0 active drivers")

        return call

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        providers = (
            Provider(BASELINE, lambda: lambda: 2 * x_N),
            Provider("missing", missing),
            Provider("not installed", not_installed),
            Provider("broken", broken),
            Provider("wrong", lambda: lambda: 3 * x_N),
        )
        return Inputs(providers, lambda rows_n: 2 * x_N[rows_n].double(), len(x_N), 0)

    return Case("doubling", "N=8", only_gpu, False, lambda itemsize: Work(8, 8 * itemsize), build)


def test_a_missing_provider_is_a_skipped_row() -> None:
    rows = list(rows_of(doubling(), CPU, torch.float32, clock(CPU, quick=True), CEILINGS, "fp32"))
    found = {row.provider: row for row in rows}
    assert found[BASELINE].speed_up == pytest.approx(1.0)
    assert found["missing"].skipped == "nobody made it"
    assert found["not installed"].document()["skipped"] == "no module of that name"
    assert found["broken"].skipped == "failed: RuntimeError: 0 active drivers"
    assert found["wrong"].skipped is None and found["wrong"].speed_up is None


def test_a_case_for_a_gpu_is_listed_on_a_cpu() -> None:
    case = doubling(only_gpu=True)
    (listed,) = rows_of(case, CPU, torch.float32, clock(CPU, quick=True), CEILINGS, "fp32")
    assert listed.skipped == "not measured: no GPU" and listed.times is None and listed.floor_ms > 0


def test_every_kernel_is_measured_at_the_shapes_of_models() -> None:
    """Small, on a CPU: what needs a GPU says so, all else is timed and right."""
    found = models.rows("cpu", seconds=float("inf"), pretend=True)
    assert {row["kernel"] for row in found} == {
        "KL, teacher recomputed",
        "linear loss",
        "8 candidates, one input",
        "gated inner",
        "attention",
    }
    timed = [row for row in found if "skipped" not in row]
    assert all(row["gate"] == "green" and row["tflops"] > 0 and row["share_of_peak"] > 0 for row in timed)
    assert {row["kernel"] for row in timed} == {row["kernel"] for row in found}
    both = {"linear_kl triton, plain", "linear_kl triton, walked"}
    assert both <= {row["provider"] for row in found if row.get("skipped") == "not measured: no GPU"}


def test_what_is_late_is_not_begun() -> None:
    assert {row["skipped"] for row in models.rows("cpu", seconds=0.0, pretend=True)} == {LATE}
