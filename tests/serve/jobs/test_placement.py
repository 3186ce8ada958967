"""Where a prune job computes beside engines: its own device, a share of theirs, the CPU, or it waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.serve.engine.device_memory import DeviceMemory
from secateur.serve.jobs.placement import Device, place_job
from secateur.serve.jobs.placer import Placer, needed_bytes

GB = 10**9
ENGINES = Device(DeviceMemory(80 * GB, 44 * GB), has_engines=True)  # one engine, and room for another
FULL = Device(DeviceMemory(80 * GB, 9 * GB), has_engines=True)
IDLE = Device(DeviceMemory(80 * GB, 79 * GB), has_engines=False)
BUSY = Device(DeviceMemory(80 * GB, 60 * GB), has_engines=False, promised=20 * GB)  # another job


def test_another_device_goes_before_the_engines_own() -> None:
    placed = place_job("auto", 30 * GB, [ENGINES, IDLE])
    assert placed.device == "cuda:1" and placed.reason == "computes on cuda:1: no engine is there"


def test_a_share_beside_the_engines() -> None:
    """All that is free but a tenth of the device, which is theirs if they were reckoned too low."""
    placed = place_job("auto", 36 * GB, [ENGINES])
    assert placed.device == "cuda:0" and "in the room for one more" in placed.reason
    assert place_job("auto", 37 * GB, [ENGINES]).device == "cpu"


def test_engines_are_not_waited_for() -> None:
    placed = place_job("auto", 40 * GB, [FULL])
    assert placed.device == "cpu"
    assert placed.reason == "computes on the CPU: needs 40.0 GB of GPU memory, 1.0 GB are free"


def test_another_job_is_waited_for() -> None:
    placed = place_job("auto", 50 * GB, [FULL, BUSY])
    assert placed.device == "" and placed.reason == "waits: needs 50.0 GB of GPU memory, 40.0 GB are free"


@pytest.mark.parametrize("asked", ["cuda", "cuda:0"])
def test_a_device_that_was_asked_for_is_waited_for(asked: str) -> None:
    assert place_job(asked, 40 * GB, [FULL]).device == ""
    assert place_job(asked, 30 * GB, [ENGINES]).device == "cuda:0"


def test_what_was_asked_for_wins() -> None:
    assert place_job("cuda:0", 30 * GB, [ENGINES, IDLE]).device == "cuda:0"
    assert place_job("cpu", 30 * GB, [ENGINES, IDLE]).device == "cpu"


@pytest.mark.parametrize("asked", ["auto", "cuda", "cpu"])
def test_a_server_without_gpus_leaves_it_to_the_job(asked: str) -> None:
    placed = place_job(asked, 30 * GB, [])
    assert placed.device == asked and not placed.reason


@pytest.mark.parametrize("asked", ["cuda:1", "cuda"])
def test_what_can_never_be_is_left_to_the_job_to_refuse(asked: str) -> None:
    assert place_job(asked, 90 * GB, [IDLE]).device == asked


@pytest.fixture
def options(tiny_llama: Path) -> dict[str, Any]:
    return {"model": str(tiny_llama), "device": "auto", "workers": None}


def test_what_a_job_was_promised_is_not_given_away_again(options: dict[str, Any], tmp_path: Path) -> None:
    needed = needed_bytes(options)
    memory = DeviceMemory(2 * needed, 3 * needed // 2)
    placer = Placer(0, lambda: [memory])
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    assert placer.place(1, options, tmp_path / "1").device == "cuda:0"
    assert placer.place(2, options, tmp_path / "2").reason.startswith("waits: needs")
    placer.release(1)
    assert placer.place(2, options, tmp_path / "2").device == "cuda:0"


def test_a_job_stays_on_its_kind_of_device(options: dict[str, Any], tmp_path: Path) -> None:
    """What is in its study was measured there, and is not compared with anything else."""
    memory = [DeviceMemory(1000, 0)]
    placer = Placer(0, lambda: memory)
    assert placer.place(1, options, tmp_path).device == "cpu"
    memory[0] = DeviceMemory(10**12, 10**12)
    assert placer.place(1, options, tmp_path).device == "cpu"


def test_a_model_that_cannot_be_opened_is_the_jobs_to_refuse(tmp_path: Path) -> None:
    placer = Placer(0, lambda: [IDLE.memory])
    placed = placer.place(1, {"model": str(tmp_path / "nothing"), "device": "auto"}, tmp_path)
    assert placed.device == "auto"
