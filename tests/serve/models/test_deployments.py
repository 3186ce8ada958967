"""Load, activate, roll back, unload, delete: over a socket, a real database, stand-ins for engines."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from secateur.errors import BrokenCheckpoint
from secateur.serve.engine.check import engine_unfit_error
from secateur.serve.failures import RpcError
from secateur.serve.models.deployments import Retention
from secateur.v1 import models_pb2
from tests.serve.models.conftest import GIB, House, engine_of, eventually, refused

SERVING, LOADING = models_pb2.MODEL_STATE_SERVING, models_pb2.MODEL_STATE_LOADING
UNLOADED, DRAINING = models_pb2.MODEL_STATE_UNLOADED, models_pb2.MODEL_STATE_DRAINING


def states(model: models_pb2.Model) -> dict[str, int]:
    return {version.version: version.state for version in model.versions}


async def test_a_swap_and_back(house: House, second: Path) -> None:
    client = house.client()
    loaded = await client.models.load("m", str(second))
    assert (loaded.version, loaded.state, loaded.active) == ("2", SERVING, False)
    assert loaded.check.golden_tokens == 16 and loaded.checkpoint.folder == str(second)
    assert house.pool.find("m").version == "1"
    first = house.pool.find("m")
    swapped = await client.models.activate("m", "2")
    assert (swapped.active_version, swapped.previous_version) == ("2", "1")
    assert house.pool.find("m").version == "2" and house.pool.find("m", "1") is first
    kept = swapped.versions[0]
    assert kept.state == SERVING and kept.unload_time.ToSeconds() > time.time() + 300
    back = await client.models.rollback("m")
    assert (back.active_version, back.previous_version) == ("1", "2")
    assert not back.versions[0].HasField("unload_time") and back.versions[1].HasField("unload_time")
    assert len(house.factory.started) == 2  # nothing was started for the way back


async def test_loading_is_seen_and_joined(house: House, second: Path) -> None:
    client = house.client()
    house.factory.open.clear()
    loads = [asyncio.ensure_future(client.models.load("m", str(second))) for _ in range(3)]
    await eventually(lambda: "2" in house.pool.models["m"].versions)
    assert states(await client.models.get("m")) == {"1": SERVING, "2": LOADING}
    assert await house.health("") == "SERVING"
    house.factory.open.set()
    assert {version.version for version in await asyncio.gather(*loads)} == {"2"}
    assert len(house.factory.started) == 2
    assert (await client.models.load("m", str(second))).version == "2"  # once more: nothing to do
    assert len(house.factory.started) == 2


async def test_a_client_may_leave(house: House, second: Path) -> None:
    house.factory.open.clear()
    failure = await _outcome(house.client(0.8).models.load("m", str(second)))
    assert failure.code.name == "DEADLINE_EXCEEDED"
    house.factory.open.set()
    await eventually(lambda: house.pool.find("m", "2").engine)
    await eventually(lambda: [row.loaded for row in house.store.read().versions["m"]] == [True, True])


@pytest.mark.parametrize(
    ("failure", "flaw", "reason"),
    [
        (BrokenCheckpoint("NAME=DIR", "m", "no good"), None, "ENGINE_NOT_STARTED"),
        (None, engine_unfit_error("two answers differ"), "ENGINE_UNFIT"),
    ],
)
async def test_a_failed_load_leaves_everything_as_it_was(
    house: House, second: Path, failure: Exception | None, flaw: RpcError | None, reason: str
) -> None:
    client = house.client()
    before = MessageToDict(await client.models.get("m"))["versions"]
    house.factory.failure, house.factory.unfit = failure, flaw
    await refused(client.models.load("m", str(second)), "FAILED_PRECONDITION", reason)
    await refused(client.models.load("new", str(second)), "FAILED_PRECONDITION", reason)
    assert MessageToDict(await client.models.get("m"))["versions"] == before
    assert list(house.pool.models) == ["m"] and len(house.store.read().versions["m"]) == 1
    if flaw is not None:
        assert all(engine.stopped for engine in house.factory.started[1:])


async def test_a_new_model_is_active_at_once(house: House, second: Path) -> None:
    client = house.client()
    house.factory.open.clear()
    load = asyncio.ensure_future(client.models.load("new", str(second)))
    await eventually(lambda: "new" in house.pool.models)
    with pytest.raises(RpcError, match="new is still loading"):
        house.pool.find("new").ready_engine()
    assert await house.health("") == "SERVING"  # what serves goes on
    house.factory.open.set()
    assert (await load).active
    await eventually(lambda: house.health("model/new"))
    await client.models.delete("new", "1", force=True)
    await eventually(lambda: _is(house.health("model/new"), "SERVICE_UNKNOWN"))


async def test_what_was_replaced_is_unloaded_in_time(open_house: Any, second: Path) -> None:
    async with open_house(retention=Retention(keep_seconds=0.3)) as house:
        client = house.client()
        await client.models.load("m", str(second))
        await client.models.activate("m", "2")
        first = engine_of(house.pool.find("m", "1"))
        await eventually(lambda: first.stopped)
        assert states(await client.models.get("m")) == {"1": UNLOADED, "2": SERVING}
        assert (await client.models.rollback("m")).active_version == "1"
        assert len(house.factory.started) == 3  # it had to be loaded again


async def test_unloading_waits_for_requests(house: House, second: Path) -> None:
    client = house.client()
    await client.models.load("m", str(second))
    version = house.pool.find("m", "2")
    engine = engine_of(version)
    with version.request():
        unload = asyncio.ensure_future(client.models.unload("m", "2"))
        await eventually(lambda: version.state.value == DRAINING)
        with pytest.raises(RpcError, match="version 2 is not loaded"):
            version.ready_engine()
        await asyncio.sleep(0.1)
        assert not engine.stopped
    assert states(await unload)["2"] == UNLOADED
    assert engine.stopped and not engine.aborted
    await client.models.unload("m", "2")  # nothing to do


async def test_requests_that_go_on_are_cut_off(open_house: Any, second: Path) -> None:
    async with open_house(retention=Retention(drain_seconds=0.1)) as house:
        await house.client().models.load("m", str(second))
        version = house.pool.find("m", "2")
        engine = engine_of(version)
        with version.request():
            unload = asyncio.ensure_future(house.client().models.unload("m", "2"))
            await eventually(lambda: engine.aborted)
        await unload
        assert engine.stopped


async def test_the_active_version_is_not_unloaded_by_mistake(house: House) -> None:
    client = house.client()
    await refused(client.models.unload("m", "1"), "FAILED_PRECONDITION", "VERSION_ACTIVE")
    await refused(client.models.delete("m", "1"), "FAILED_PRECONDITION", "VERSION_ACTIVE")
    await client.models.unload("m", "1", force=True)
    with pytest.raises(RpcError, match="m version 1 is not loaded"):
        house.pool.find("m").ready_engine()
    assert await house.health("model/m") == "NOT_SERVING"
    assert await house.health("") == "SERVING"  # as its operator wants it
    assert (await client.models.load_version("m", "1")).state == SERVING
    house.pool.find("m").ready_engine()


async def test_deleting(house: House, second: Path) -> None:
    client = house.client()
    await client.models.load("m", str(second))
    await client.models.activate("m", "2")
    await client.models.delete("m", "1")
    assert engine_of(house.pool.find("m")).folder == second
    await refused(client.models.rollback("m"), "FAILED_PRECONDITION", "NO_PREVIOUS_VERSION")
    await refused(client.models.get_version("m", "1"), "NOT_FOUND", "VERSION_NOT_FOUND")
    await client.models.set_alias("default", "m")
    await client.models.delete("m", "2", force=True)
    assert not house.pool.models and not house.pool.aliases
    assert not house.store.read().models and not house.store.read().aliases
    assert second.is_dir()


async def test_numbers_are_not_used_again(house: House, second: Path) -> None:
    client = house.client()
    await client.models.load("m", str(second))
    await client.models.delete("m", "2")
    assert (await client.models.load("m", str(second))).version == "3"


async def test_aliases(house: House, second: Path) -> None:
    client = house.client()
    await client.models.load("n", str(second))
    await refused(client.models.get(), "NOT_FOUND", "MODEL_NOT_FOUND")
    assert (await client.models.set_alias("default", "n")).aliases == ["default"]
    assert (await client.models.get()).name == "n" == house.pool.find("").name
    assert (await client.models.load_version("default", "1")).model == "n"
    await client.models.set_alias("default", "m")
    assert house.pool.find("").name == "m"
    await refused(client.models.set_alias("n", "m"), "ALREADY_EXISTS", "NAME_TAKEN")
    await client.models.delete_alias("default")
    await refused(client.models.delete_alias("default"), "NOT_FOUND", "ALIAS_NOT_FOUND")


async def test_etags(house: House, second: Path) -> None:
    client = house.client()
    old = (await client.models.get("m")).etag
    await client.models.load("m", str(second))
    for call in (
        client.models.activate("m", "2", etag=old),
        client.models.rollback("m", etag=old),
        client.models.unload("m", "2", etag=old),
        client.models.delete("m", "2", etag=old),
    ):
        await refused(call, "ABORTED", "ETAG_MISMATCH")
    model = await client.models.activate("m", "2", etag=(await client.models.get("m")).etag)
    rolled = await client.models.rollback("m", etag=model.etag)
    await refused(client.models.rollback("m", etag=model.etag), "ABORTED", "ETAG_MISMATCH")
    assert rolled.active_version == "1"


async def test_an_activation_that_was_overtaken(house: House, second: Path, tiny_qwen3: Path) -> None:
    client = house.client()
    await client.models.load("m", str(second))
    await client.models.load("m", str(tiny_qwen3))
    await client.models.unload("m", "2")
    house.factory.open.clear()
    etag = (await client.models.get("m")).etag
    slow = asyncio.ensure_future(client.models.activate("m", "2", etag=etag))
    await eventually(lambda: house.pool.find("m", "2").state.value == LOADING)
    assert (await client.models.activate("m", "3")).active_version == "3"
    house.factory.open.set()
    await refused(slow, "ABORTED", "ETAG_MISMATCH")
    assert house.pool.find("m").version == "3"


async def test_memory_is_planned(open_house: Any, second: Path, tiny_qwen3: Path) -> None:
    async with open_house(available=int(3.5 * GIB)) as house:
        client = house.client()
        answer = await client.models.plan_load("m", str(second))
        assert answer.plan.fits and answer.plan.kv_cache_bytes == GIB // 2 == answer.plan.overhead_bytes
        assert answer.plan.needed_bytes - GIB == answer.plan.weight_bytes > 0
        assert answer.version.version == "" and answer.version.checkpoint.model_type == "llama"
        assert len(house.factory.started) == 1
        await client.models.load("m", str(second))
        assert (await client.models.plan_activate("m", "2")).plan.needed_bytes == 0
        await client.models.load("n", str(second))  # the third engine; no room for a fourth
        assert not (await client.models.plan_load("o", str(second))).plan.fits
        failure = await refused(
            client.models.load("o", str(second)), "FAILED_PRECONDITION", "INSUFFICIENT_MEMORY"
        )
        assert "bytes of memory" in str(failure)
        # A version that is only kept for a rollback makes way.
        await client.models.activate("m", "2")
        assert (await client.models.plan_load("o", str(second))).plan.unloads == ["m/1"]
        await client.models.load("o", str(second))
        assert states(await client.models.get("m")) == {"1": UNLOADED, "2": SERVING}


async def test_a_version_is_not_kept_where_memory_is_scarce(open_house: Any, second: Path) -> None:
    async with open_house(available=int(3.5 * GIB)) as house:
        client = house.client()
        await client.models.load("m", str(second))
        house.room = type(house.room)(int(2.1 * GIB), GIB // 2, 0)
        await client.models.activate("m", "2")
        await eventually(lambda: house.factory.started[0].stopped)


async def test_a_changed_checkpoint_is_another_version(
    open_house: Any, tiny_llama: Path, second: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(second, folder)
    async with open_house(roots=(tmp_path,)) as house:
        client = house.client()
        await client.models.load("m", str(folder))
        await client.models.unload("m", "2")
        shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)
        failure = await refused(
            client.models.load_version("m", "2"), "FAILED_PRECONDITION", "CHECKPOINT_CHANGED"
        )
        assert "load it as a new version" in str(failure)
        assert (await client.models.load("m", str(folder))).version == "3"


async def test_state_survives(open_house: Any, second: Path, tiny_qwen3: Path, tiny_qwen2: Path) -> None:
    async with open_house() as house:
        client = house.client()
        await client.models.load("m", str(second))
        await client.models.activate("m", "2")
        await client.models.load("n", str(tiny_qwen3))
        await client.models.load("n", str(second))
        await client.models.load("n", str(tiny_qwen2))
        await client.models.unload("n", "3")
        await client.models.set_alias("default", "n")
        before = {model.name: MessageToDict(model) for model in await client.models.list()}
    async with open_house() as house:
        after = {model.name: MessageToDict(model) for model in await house.client().models.list()}
        for name in ("m", "n"):
            for key in ("activeVersion", "previousVersion", "aliases"):
                assert before[name].get(key) == after[name].get(key)
            for old, new in zip(before[name]["versions"], after[name]["versions"], strict=True):
                assert (old["version"], old["createTime"]) == (new["version"], new["createTime"])
                assert old["checkpoint"]["fingerprint"] == new["checkpoint"]["fingerprint"]
        # What was only kept for a rollback is known, and not in memory.
        assert states(await house.client().models.get("m")) == {"1": UNLOADED, "2": SERVING}
        assert states(await house.client().models.get("n")) == {"1": SERVING, "2": SERVING, "3": UNLOADED}
        assert (await house.client().models.rollback("m")).active_version == "1"
    async with open_house(given={"m": tiny_qwen2}) as house:  # another folder on the command line wins
        model = await house.client().models.get("m")
        assert (model.active_version, model.previous_version) == ("3", "1")
    async with open_house(given={"x": tiny_qwen2}) as house:
        # One that is not given any more is forgotten.
        assert set(house.pool.models) == {"n", "x"}


def _outcome(call: Any) -> Any:
    async def outcome() -> Any:
        try:
            return await call
        except Exception as error:
            return error

    return outcome()


async def _is(call: Any, expected: str) -> bool:
    return bool(await call == expected)
