"""Steps of a swap × faults: each is refused truthfully or recovers, what was served goes on, nothing is lost.

The database, its faults and the checkpoints are real; engines are stand-ins. The table is in
docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from secateur.errors import BackendUnavailable
from secateur.serve.engine.check import engine_unfit_error
from secateur.serve.models.deployments import Retention
from secateur.serve.models.description import describe_version
from secateur.v1 import models_pb2
from tests.serve.models.conftest import House, engine_of, eventually, refused

pytestmark = pytest.mark.slow

SERVING = models_pb2.MODEL_STATE_SERVING
Step = Callable[[House, Path], Awaitable[object]]


async def load(house: House, second: Path) -> object:
    return await house.client().models.load("m", str(second))


async def load_again(house: House, second: Path) -> object:
    return await house.client().models.load_version("m", "2")


async def activate(house: House, second: Path) -> object:
    return await house.client().models.activate("m", "2")


async def roll_back(house: House, second: Path) -> object:
    return await house.client().models.rollback("m")


async def unload(house: House, second: Path) -> object:
    return await house.client().models.unload("m", "2")


async def delete(house: House, second: Path) -> object:
    return await house.client().models.delete("m", "2")


async def nothing(house: House, second: Path) -> None:
    pass


async def loaded(house: House, second: Path) -> None:
    await load(house, second)


async def known(house: House, second: Path) -> None:
    """Version 2 was loaded once."""
    await load(house, second)
    await unload(house, second)


async def swapped_away(house: House, second: Path) -> None:
    """Version 2 answered before version 1 does, and is not loaded any more: a rollback has to start it."""
    await load(house, second)
    await activate(house, second)
    await roll_back(house, second)
    await unload(house, second)


# What is done before, and which version answers throughout.
STEPS: dict[str, tuple[Step, Callable[[House, Path], Awaitable[None]]]] = {
    "load": (load, nothing),
    "load again": (load_again, known),
    "activate": (activate, loaded),
    "activate what must be loaded": (activate, known),
    "roll back": (roll_back, swapped_away),
    "unload": (unload, loaded),
    "delete": (delete, loaded),
}
NEEDS_ENGINE = ("load", "load again", "activate what must be loaded", "roll back")
steps = pytest.mark.parametrize("step", STEPS)


@contextmanager
def database(house: House, *pragmas: str) -> Any:
    """Let every connection begin with these, which make SQLite fail as it does on such a disk."""
    bind = house.store._sessions.kw["bind"]

    def prepare(connection: Any, *_: Any) -> None:
        for pragma in pragmas:
            connection.execute(pragma)

    event.listen(bind, "checkout", prepare)
    try:
        yield
    finally:
        event.remove(bind, "checkout", prepare)
        bind.dispose()


@contextmanager
def full_disk(house: House) -> Any:
    """No page can be added, and every change needs one."""
    bind = house.store._sessions.kw["bind"]
    tables = ("models", "versions")
    names = [name for name in _tables(bind) if any(table in name for table in tables)]
    with bind.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE filler (body BLOB)")
        for name in names:
            for verb in ("INSERT", "UPDATE", "DELETE"):
                body = "BEGIN INSERT INTO filler VALUES (zeroblob(100000)); END"
                connection.exec_driver_sql(f"CREATE TRIGGER {name}_{verb} AFTER {verb} ON {name} {body}")
    try:
        with database(house, "PRAGMA max_page_count=1"):
            yield
    finally:
        with bind.begin() as connection:
            connection.exec_driver_sql("DROP TABLE filler")
            for name in names:
                for verb in ("INSERT", "UPDATE", "DELETE"):
                    connection.exec_driver_sql(f"DROP TRIGGER {name}_{verb}")


def _tables(bind: Any) -> list[str]:
    with bind.connect() as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        return [name for (name,) in connection.exec_driver_sql(query)]


def memory_of(house: House) -> tuple[str | None, str | None]:
    """Which version answers, by the pool and by the database."""
    (row,) = [row for row in house.store.read().models if row.name == "m"]
    return house.pool.models["m"].active, row.active


@asynccontextmanager
async def before(open_house: Any, second: Path, step: str) -> AsyncIterator[tuple[House, Step]]:
    """A house in which the step may be taken; after the block, version 1 answers and the step succeeds."""
    take, prepare = STEPS[step]
    async with open_house() as house:
        await prepare(house, second)
        assert memory_of(house) == ("1", "1")
        first = engine_of(house.pool.find("m"))
        yield house, take
        assert memory_of(house) == ("1", "1")
        assert house.pool.find("m").version == "1" and engine_of(house.pool.find("m")) is first
        assert not first.stopped and not first.aborted and await house.health("") == "SERVING"
        await take(house, second)
        assert len(set(memory_of(house))) == 1


@steps
@pytest.mark.parametrize("fault", ["read-only", "full"])
async def test_the_database_cannot_be_written(open_house: Any, second: Path, step: str, fault: str) -> None:
    async with before(open_house, second, step) as (house, take):
        failing = full_disk(house) if fault == "full" else database(house, "PRAGMA query_only=ON")
        with failing:
            failure = await refused(take(house, second), "UNAVAILABLE", "STATE_UNAVAILABLE")
        assert ("disk is full" if fault == "full" else "readonly") in str(failure)
        if fault == "read-only":
            with database(house, "PRAGMA query_only=OFF"):
                house.store.read()


@pytest.mark.parametrize("step", NEEDS_ENGINE)
@pytest.mark.parametrize("fault", ["engine does not start", "engine is unfit"])
async def test_the_engine_fails(open_house: Any, second: Path, step: str, fault: str) -> None:
    async with before(open_house, second, step) as (house, take):
        if fault == "engine is unfit":
            house.factory.unfit = engine_unfit_error("two answers differ")
            await refused(take(house, second), "FAILED_PRECONDITION", "ENGINE_UNFIT")
        else:
            house.factory.failure = BackendUnavailable("its process was killed")
            await refused(take(house, second), "FAILED_PRECONDITION", "ENGINE_NOT_STARTED")
        house.factory.unfit = house.factory.failure = None


@pytest.mark.parametrize("step", NEEDS_ENGINE)
async def test_the_folder_is_gone(open_house: Any, second: Path, tmp_path: Path, step: str) -> None:
    folder = second.parent / f"{tmp_path.name}-copy"
    shutil.copytree(second, folder)
    async with before(open_house, folder, step) as (house, take):
        folder.rename(tmp_path / "away")
        code = "INVALID_ARGUMENT" if step == "load" else "FAILED_PRECONDITION"
        failure = await _failure(take(house, folder))
        assert failure.code.name in (code, "FAILED_PRECONDITION"), failure
        (tmp_path / "away").rename(folder)


@pytest.mark.parametrize("step", ["activate", "roll back"])
async def test_an_engine_dies_as_it_is_activated(open_house: Any, second: Path, step: str) -> None:
    """The engine that is to answer is killed: it is started again, and the call may be repeated."""
    async with open_house() as house:
        await load(house, second)
        if step == "roll back":
            await activate(house, second)
        target = house.pool.find("m", "2" if step == "activate" else "1")
        engine_of(target).dead = True
        take, _ = STEPS[step]
        try:
            await take(house, second)
        except Exception as failure:
            assert "changed by another call" in str(failure) or "started again" in str(failure)
        await eventually(lambda: target.state.value == SERVING)
        await house.client().models.activate("m", target.version)
        assert memory_of(house) == (target.version, target.version)
        assert await eventually(lambda: house.health("")) == "SERVING"


@pytest.mark.parametrize("keep", [600.0, 1.0])
@pytest.mark.parametrize("hours", [-24, 24])
async def test_the_clock_is_set(
    open_house: Any, second: Path, hours: int, keep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is kept for a rollback stays as long as it was to, and no longer."""
    now = time.time
    async with open_house(retention=Retention(keep_seconds=keep)) as house:
        await load(house, second)
        await activate(house, second)
        monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
        first = house.pool.find("m", "1")
        if keep == 1.0:
            await eventually(lambda: first.engine is None)
            return
        await asyncio.sleep(0.3)
        assert first.engine is not None
        shown = describe_version(first, house.pool.models["m"]).unload_time  # a call would use the clock, too
        assert 0 < shown.ToMilliseconds() / 1e3 - time.time() <= keep


async def _failure(call: Awaitable[object]) -> Any:
    from secateur.client import CallFailed

    with pytest.raises(CallFailed) as failure:
        await call
    return failure.value
