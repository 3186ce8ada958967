"""Where a job computes: what an option `device` comes to, by what is free. No device is touched here."""

from __future__ import annotations

import pytest
import torch

from secateur.errors import BadInput
from secateur.model import compute
from secateur.model.compute import Compute, choose_compute

GPUS = [torch.device("cuda", index) for index in range(2)]
BILLION = 10**9


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs with 20 and 80 GB free."""
    free = dict(zip(GPUS, (20 * BILLION, 80 * BILLION), strict=True))
    monkeypatch.setattr(compute, "_free_bytes", lambda: free)
    monkeypatch.setattr(compute, "fastest_dtype", lambda device: torch.bfloat16)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("name", "weights", "device", "streamed"),
    [
        ("auto", BILLION, GPUS[1], False),
        ("auto", 30 * BILLION, GPUS[1], True),
        ("auto", 100 * BILLION, torch.device("cpu"), False),
        ("cpu", BILLION, torch.device("cpu"), False),
        ("cuda", 8 * BILLION, GPUS[1], False),
        ("cuda:0", BILLION, GPUS[0], False),
        ("cuda:0", 8 * BILLION, GPUS[0], True),
    ],
)
def test_the_choice_goes_by_free_memory(
    name: str, weights: int, device: torch.device, streamed: bool
) -> None:
    chosen = choose_compute(name, weights)
    assert (chosen.device, chosen.streamed) == (device, streamed)


@pytest.mark.usefixtures("gpus")
def test_what_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(BadInput, match="device: got cuda:7: allowed here are auto, cpu, cuda:0, cuda:1"):
        choose_compute("cuda:7", BILLION)
    needs = r"the model needs about 70.0 GB there, 20.0 GB are free; allowed is cpu"
    with pytest.raises(BadInput, match=f"device: got cuda:0: streamed, {needs}"):
        choose_compute("cuda:0", 70 * BILLION)


def test_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert choose_compute("auto", BILLION) == Compute.on_cpu()
    with pytest.raises(BadInput, match=r"device: got cuda: allowed here are auto, cpu$"):
        choose_compute("cuda", BILLION)


def test_workers_take_the_devices_in_turn_unless_one_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    spread, named = (Compute(GPUS[1], torch.bfloat16, spread=spread) for spread in (True, False))
    assert [spread.for_worker(worker).device for worker in range(3)] == [GPUS[0], GPUS[1], GPUS[0]]
    assert named.for_worker(0) == named
    assert Compute.on_cpu().for_worker(5) == Compute.on_cpu()


def test_measurements_of_devices_never_mix() -> None:
    """A CPU's identity is as it was before there was a choice: studies go on."""
    assert Compute.on_cpu(torch.float32).identity == {"compute_dtype": "torch.float32"}
    ways = [Compute(GPUS[0], torch.float32), Compute(GPUS[0], torch.float32, streamed=True)]
    identities = [Compute.on_cpu(torch.float32).identity, *(way.identity for way in ways)]
    assert all(one != other for i, one in enumerate(identities) for other in identities[:i])
