"""A real server over a socket, with real checkpoints and a real database; only its engines are stand-ins.

Starting an engine takes ten seconds and a gigabyte: what a swap does around engines is tested without.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from secateur.client import AsyncClient, CallFailed, RetryPolicy
from secateur.config.serve import EngineOptions
from secateur.errors import SecateurError
from secateur.serve.engine.stats import EngineCheckResult
from secateur.serve.failures import RpcError
from secateur.serve.guard.interceptor import GuardInterceptor
from secateur.serve.health import HealthReporter
from secateur.serve.models.checkpoint import Checkpoint, checkpoint_error, error_reason, read_checkpoint
from secateur.serve.models.deployments import DeploymentManager, Retention
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.plan import AvailableMemory
from secateur.serve.models.pool import ModelPool
from secateur.serve.models.service import ModelService
from secateur.serve.models.startup import restore_pool, snapshot_rows
from secateur.serve.models.tables import ModelStore
from secateur.serve.models.version import ModelVersion
from secateur.serve.models.watchdog import Backoff, EngineWatchdog
from secateur.serve.state import open_state
from secateur.v1 import models_pb2_grpc

GIB = 2**30


class StandIn:
    """What a version needs of an engine."""

    architecture, dtype, max_model_len, kv_cache_tokens, load_seconds = "Stand", "float32", 512, 1000, 0.01

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0
        self.dead = False
        self.stopped = False
        self.aborted = False
        self.load = SimpleNamespace(running=0, waiting=0, kv_cache_usage=0.0)

    async def shutdown(self) -> None:
        self.stopped = True

    async def abort_all(self) -> None:
        self.aborted = True


@dataclass
class Factory:
    """Starts stand-ins, as slowly and as badly as a test wants."""

    started: list[StandIn] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    unfit: RpcError | None = None

    def __post_init__(self) -> None:
        self.open.set()

    def start(self, name: str, folder: Path, options: EngineOptions, engines: int) -> Any:
        self.open.wait(10)
        engine = StandIn(folder)
        self.started.append(engine)
        if self.failure is not None:
            raise self.failure
        return engine

    async def prove(self, engine: Any, folder: Path) -> EngineCheckResult:
        if self.unfit is not None:
            raise self.unfit
        return EngineCheckResult(16, 0.01, 3, 4, 0.1)


@dataclass
class House:
    """A running server; `say` collects what it says."""

    address: str
    pool: ModelPool
    deployments: DeploymentManager
    store: ModelStore
    factory: Factory
    said: list[str]
    room: AvailableMemory
    channel: Any

    def client(self, timeout: float = 20) -> AsyncClient:
        return AsyncClient(self.address, timeout, retries=RetryPolicy(attempts=1))

    async def health(self, service: str) -> str:
        stub = health_pb2_grpc.HealthStub(self.channel)
        status = (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


Open = Callable[..., Any]


async def read(folder: Path) -> Checkpoint:
    """Read a checkpoint in this process, which takes a second, not five."""
    try:
        return await asyncio.to_thread(read_checkpoint, folder)
    except (SecateurError, OSError) as error:
        raise checkpoint_error(folder, error_reason(error)) from error


@pytest.fixture
def open_house(tmp_path: Path, tiny_llama: Path) -> Open:
    """Open a house: ``async with open_house() as house``; a second one has the same database."""

    @asynccontextmanager
    async def opened(
        given: dict[str, Path] | None = None,
        roots: tuple[Path, ...] | None = None,
        retention: Retention | None = None,
        backoff: Callable[[], Backoff] = Backoff,
        available: int = 100 * GIB,
    ) -> AsyncIterator[House]:
        store = ModelStore(open_state(f"sqlite:///{tmp_path}/state/server.db"), "home")
        pool, factory, said = ModelPool(), Factory(), []
        loader = EngineLoader(said.append, factory.start, factory.prove)
        house = House("", pool, None, store, factory, said, AvailableMemory(available, GIB // 2, 0), None)  # type: ignore[arg-type]
        house.deployments = DeploymentManager(
            pool,
            store,
            loader,
            EngineOptions(kv_cache_bytes=GIB // 2),
            retention or Retention(),
            said.append,
            lambda engines: AvailableMemory(
                house.room.available - GIB * sum(not e.stopped for e in factory.started), GIB // 2, engines
            ),
            read,
        )
        specs = {"m": tiny_llama} if given is None else given
        wanted = restore_pool(
            pool, store.read(), {name: read_checkpoint(folder.resolve()) for name, folder in specs.items()}
        )
        await asyncio.gather(*(loader.start(one, EngineOptions(), 1) for one in wanted))
        store.write(snapshot_rows(pool, wanted))
        house.deployments.open()

        server = grpc.aio.server(interceptors=[GuardInterceptor()])
        service = ModelService(pool, house.deployments, roots or (tiny_llama.parent,))
        models_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
        status = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        house.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        reporter = HealthReporter(status, pool, ())
        await reporter.report()
        keeper = EngineWatchdog(pool, house.deployments, loader, said.append, backoff)
        tasks = [asyncio.create_task(reporter.follow()), asyncio.create_task(keeper.watch())]
        house.channel = grpc.aio.insecure_channel(house.address)
        try:
            yield house
        finally:
            factory.open.set()
            await house.channel.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await house.deployments.close()
            await server.stop(0)

    return opened


@pytest.fixture
async def house(open_house: Open) -> AsyncIterator[House]:
    """A house with model "m", one version."""
    async with open_house() as opened:
        yield opened


@pytest.fixture(scope="session")
def second(make_tiny: Callable[..., Path]) -> Path:
    """Another checkpoint, below the same root."""
    return make_tiny("llama", seed=7)


async def eventually(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """Wait until a condition, which may be awaitable, holds; return it."""
    for _ in range(int(seconds / 0.02)):
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come")


async def refused(call: Awaitable[Any], code: str, reason: str) -> CallFailed:
    """Await a call that is to fail; return how it did."""
    with pytest.raises(CallFailed) as failure:
        await call
    assert (failure.value.code.name, failure.value.reason) == (code, reason), failure.value
    return failure.value


def engine_of(version: ModelVersion) -> StandIn:
    engine: Any = version.engine
    assert isinstance(engine, StandIn)
    return engine
