"""Engines that die are started again, with back-off, then with pauses, but never given up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import BackendUnavailable
from secateur.serve.failures import RpcError
from secateur.serve.models.version import VersionState
from secateur.serve.models.watchdog import Backoff
from secateur.v1 import models_pb2
from tests.serve.models.conftest import House, engine_of, eventually

RESTARTING, FAILED = models_pb2.MODEL_STATE_RESTARTING, models_pb2.MODEL_STATE_FAILED
SERVING, UNLOADED = models_pb2.MODEL_STATE_SERVING, models_pb2.MODEL_STATE_UNLOADED


class Fast(Backoff):
    """The same, in hundredths of seconds."""

    def failed(self, now: float) -> float:
        return super().failed(now) / 100


async def test_a_dead_engine_is_started_again(house: House) -> None:
    version = house.pool.find("m")
    engine_of(version).dead = True
    died = time.monotonic()
    with pytest.raises(RpcError, match="is being started again") as refusal:
        version.ready_engine()  # at once, whoever notices first
    assert refusal.value.reason == "ENGINE_RESTARTING" and refusal.value.retry_seconds
    await eventually(lambda: _unhealthy(house))
    assert time.monotonic() - died < 0.5
    described = (await house.client().models.get("m")).versions[0]
    assert (described.state, described.reason) == (RESTARTING, "its engine died")
    await eventually(lambda: version.state.value == SERVING)
    assert house.factory.started[0].stopped and engine_of(version) is house.factory.started[1]
    assert await house.health("") == "SERVING"
    assert time.monotonic() - died > 1  # the first wait


async def test_one_that_failed_too_often_can_be_loaded(open_house: Any) -> None:
    async with open_house(backoff=lambda: Fast(failures=3)) as house:
        version = house.pool.find("m")
        house.factory.failure = BackendUnavailable("no more of this")
        engine_of(version).dead = True
        await eventually(lambda: version.state.value == FAILED)
        assert len(house.factory.started) == 3  # the first, and two tries
        assert "no more of this" in version.reason and "the next try is in" in version.reason
        assert "too often" in (await house.client().models.get("m")).versions[0].reason
        with pytest.raises(RpcError, match="no more of this") as refusal:
            version.ready_engine()
        assert refusal.value.reason == "ENGINE_FAILED"
        house.factory.failure = None
        assert (await house.client().models.load_version("m", "1")).state == SERVING
        assert await eventually(lambda: house.health("")) == "SERVING"


async def test_one_that_failed_heals_by_itself(open_house: Any) -> None:
    async with open_house(backoff=lambda: Fast(failures=2)) as house:
        version = house.pool.find("m")
        house.factory.failure = BackendUnavailable("no memory")
        engine_of(version).dead = True
        await eventually(lambda: version.state.value == FAILED)
        house.factory.failure = None
        await eventually(lambda: version.state.value == SERVING)
        assert await eventually(lambda: house.health("")) == "SERVING"


async def test_a_folder_that_was_away_is_no_reason_to_give_up(
    open_house: Any, second: Path, tmp_path: Path, editable: Any
) -> None:
    folder = editable(second)
    async with open_house(given={"m": folder}, backoff=Fast) as house:
        version = house.pool.find("m")
        folder.rename(tmp_path / "away")
        engine_of(version).dead = True
        await eventually(lambda: "starting again in 0.08 s" in "".join(house.said))
        assert version.state.value == RESTARTING
        (tmp_path / "away").rename(folder)
        await eventually(lambda: version.state.value == SERVING)


async def test_a_version_that_stayed_out_at_the_start_is_tried_again(house: House) -> None:
    version = house.pool.find("m")
    assert version.engine is not None
    await version.engine.shutdown()
    version.without_engine(VersionState.FAILED, "its folder was away")
    await eventually(lambda: version.state.value == SERVING)


async def test_a_changed_checkpoint_is_not_started_again(
    open_house: Any, second: Path, tmp_path: Path, editable: Any
) -> None:
    folder = editable(second)
    async with open_house(given={"m": folder}, backoff=lambda: Fast(failures=2)) as house:
        version = house.pool.find("m")
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config + " ")
        engine_of(version).dead = True
        await eventually(lambda: version.state.value == FAILED)
        assert "no longer the checkpoint" in version.reason
        assert len(house.factory.started) == 1


async def test_an_unload_ends_the_attempts(house: House) -> None:
    version = house.pool.find("m")
    engine_of(version).dead = True
    await eventually(lambda: version.state.value == RESTARTING)
    await house.client().models.unload("m", "1", force=True)
    await asyncio.sleep(1.2)  # longer than the first wait
    assert version.state.value == UNLOADED and len(house.factory.started) == 1


def test_waits_double_then_are_pauses_that_grow() -> None:
    backoff, now, waits = Backoff(), 0.0, []
    for _ in range(14):
        waits.append(backoff.failed(now))
        now += waits[-1] + 1
    assert waits == [1, 2, 4, 8, 16, 30, 30, 60, 120, 240, 480, 900, 900, 900]
    assert sum(waits[:7]) > 15 and backoff.pausing
    assert backoff.failed(now + 600) == 1 and not backoff.pausing  # the others are long ago


async def _unhealthy(house: House) -> bool:
    return await house.health("") == await house.health("model/m") == "NOT_SERVING"
