"""The life of a server: bind, load, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_channelz.v1 import channelz_pb2
from grpc_channelz.v1.channelz import add_channelz_servicer
from grpc_health.v1 import health, health_pb2_grpc
from sqlalchemy.orm import Session, sessionmaker

from secateur.config.serve import ServeOptions
from secateur.serve.benchmarks.service import BenchmarkService
from secateur.serve.benchmarks.tables import BenchmarkStore
from secateur.serve.engine.environment import sockets_in
from secateur.serve.engine.stats import EngineStats
from secateur.serve.guard.access import AccessControl
from secateur.serve.guard.channel import bind_server, channel_options
from secateur.serve.guard.interceptor import CallStage, GuardInterceptor
from secateur.serve.guard.limits import RateLimiter
from secateur.serve.health import DOWN, HealthReporter
from secateur.serve.inference.service import InferenceService
from secateur.serve.jobs.manager import SERVICES as JOB_SERVICES
from secateur.serve.jobs.manager import JobManager
from secateur.serve.jobs.placer import Placer
from secateur.serve.models.deployments import ABORT_SECONDS, DeploymentManager, Retention, wait_until
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.pool import ModelPool
from secateur.serve.models.service import ModelService
from secateur.serve.models.startup import start_up
from secateur.serve.models.tables import ModelStore
from secateur.serve.models.version import ModelVersion
from secateur.serve.models.watchdog import EngineWatchdog
from secateur.serve.observe.observation import observing
from secateur.serve.private_folder import private_folder
from secateur.serve.protocols.handlers import add_to_server
from secateur.serve.protocols.open_inference import wire as open_inference
from secateur.serve.protocols.open_inference.service import OpenInferenceService
from secateur.serve.protocols.reflection import add_reflection
from secateur.serve.protocols.vllm_engine import messages as vllm_engine
from secateur.serve.protocols.vllm_engine.service import VllmEngineService
from secateur.serve.state import open_state
from secateur.serve.state_lock import acquire_state_lock, release_state_lock
from secateur.v1 import (
    benchmarks_pb2,
    benchmarks_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)

CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name
SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    benchmarks_pb2.DESCRIPTOR.services_by_name["BenchmarkService"].full_name,
    open_inference.SERVICE,
    vllm_engine.SERVICE_DESCRIPTOR.full_name,
    *JOB_SERVICES,
)

StatusCallback = Callable[[str], None]


@dataclass(frozen=True)
class ServerReady:
    """A server that answers: where, with what, and how long it took to get there."""

    address: str
    models: Sequence[ModelVersion]
    seconds: float


class InterruptHandler:
    """Counts Ctrl-C and SIGTERM: the first asks for a clean end, the second for an immediate one."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def serve(options: ServeOptions, ready: Callable[[ServerReady], None], say: StatusCallback) -> None:
    """Serve until interrupted.

    Args:
        options: what to serve and how.
        ready: called once, when all models answer.
        say: takes lines for people about what goes on.

    Raises:
        BackendUnavailable: a package that an option needs is not installed.
        BadInput: an address is taken or cannot be bound, the database cannot be opened, or a file is not
            what it should be.
        SecateurError: a model cannot be loaded.
        KeyboardInterrupt: interrupted before all models were loaded.
    """
    interrupts = InterruptHandler()
    pool = ModelPool()
    pool.opening = True
    async with observing(options.observe, options.tls, lambda: _loads(pool)) as observers:
        with private_folder() as private, sockets_in(private):
            await _serve(options, pool, _guarded_server(options, observers), private, interrupts, ready, say)
    say("stopped")


async def _serve(
    options: ServeOptions,
    pool: ModelPool,
    server: grpc.aio.Server,
    private: Path,
    interrupts: InterruptHandler,
    ready: Callable[[ServerReady], None],
    say: StatusCallback,
) -> None:
    started = time.monotonic()
    sessions = open_state(options.state_url)
    state_lock = acquire_state_lock(options.state_dir)
    store = ModelStore(sessions, state_lock.name)
    loader = EngineLoader(say)
    retention = Retention(options.keep_seconds, options.drain_seconds)
    deployments = DeploymentManager(pool, store, loader, options.engine, retention, say)
    folder = options.state_dir / "jobs"
    placer = Placer(options.engine.ranks)
    jobs = JobManager(sessions, options.state_url, folder, deployments, options.roots, options.jobs, placer)
    jobs.add_to(server)
    status = _add_services(server, pool, deployments, options)
    benchmarks = _add_benchmarks(server, pool, sessions, options, private)
    reporter = HealthReporter(status, pool, SERVICES)
    for name in options.models:
        await status.set(f"model/{name}", DOWN)
    await reporter.report()
    address = bind_server(server, options.listen, options.tls)
    await server.start()
    await benchmarks.open()
    if state_lock.shared:
        say(f"{options.state_dir} is another server's: what is loaded through the API will not be remembered")
    say(f"listening on {address}; loading {len(options.models)} model(s), about 20 seconds on a CPU")
    tasks = [asyncio.create_task(reporter.follow())]
    try:
        await _until_interrupted(interrupts, start_up(options, pool, store, loader, say))
        await reporter.report()
        # What is loaded by now stays: looking through it for garbage would halt the loop for 0.1 s each time.
        gc.collect()
        gc.freeze()
        deployments.open()
        ready(ServerReady(address, [one for one in pool if one.engine], time.monotonic() - started))
        await jobs.start()
        tasks.append(asyncio.create_task(EngineWatchdog(pool, deployments, loader, say).watch()))
        await interrupts.first.wait()
        await status.enter_graceful_shutdown()
        await _wait_lame_duck(options.lame_duck, interrupts.second, say)
        await benchmarks.close()
        pool.drain()
        await _finish_requests(pool, options.drain_seconds, interrupts.second, say)
    finally:
        await benchmarks.close()
        if jobs.in_progress:
            say(f"{jobs.in_progress} prune job(s) go on; the next server of {folder.parent} looks after them")
        await jobs.close()
        await server.stop(grace=0)
        gc.unfreeze()
        for task in tasks:
            task.cancel()
        await deployments.close()
        await asyncio.gather(*(model.engine.shutdown() for model in pool if model.engine))
        _kill_children()
        if state_lock.shared:
            await asyncio.to_thread(store.forget_all)
        release_state_lock(state_lock)


def _guarded_server(options: ServeOptions, observers: Sequence[CallStage]) -> grpc.aio.Server:
    """Return a server without services yet, behind everything that guards it."""
    access = AccessControl(options.tokens, options.open_to_all)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, access.reload)  # it would end the process
    guard = GuardInterceptor(
        observers, [access, RateLimiter(options.limits)], options.limits.first_message_seconds
    )
    return grpc.aio.server(interceptors=[guard], options=channel_options(options.limits, options.connections))


def _loads(pool: ModelPool) -> Iterator[tuple[str, str, EngineStats]]:
    """Yield model, version and load of every engine."""
    for model in pool:
        if model.engine is not None:
            yield model.name, model.version, model.engine.load


async def _wait_lame_duck(seconds: float, at_once: asyncio.Event, say: StatusCallback) -> None:
    """Go on answering while load balancers find out that they should look elsewhere."""
    if seconds:
        say(f"health says NOT_SERVING; new calls are answered for {seconds:g} s more")
        with suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), seconds)


def _add_services(
    server: grpc.aio.Server, pool: ModelPool, deployments: DeploymentManager, options: ServeOptions
) -> health.aio.HealthServicer:
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceService(pool), server)
    models = ModelService(pool, deployments, options.roots)
    models_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    add_to_server(OpenInferenceService(pool, deployments), open_inference.SERVICE_DESCRIPTOR, server)
    add_to_server(VllmEngineService(pool), vllm_engine.SERVICE_DESCRIPTOR, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    if options.channelz:
        add_channelz_servicer(server)
    if options.reflection:
        channelz = (CHANNELZ,) if options.channelz else ()
        add_reflection((*SERVICES, *channelz, health.SERVICE_NAME), server, open_inference.POOL)
    return status


def _add_benchmarks(
    server: grpc.aio.Server,
    pool: ModelPool,
    sessions: sessionmaker[Session],
    options: ServeOptions,
    private: Path,
) -> BenchmarkService:
    """Add the service, and a socket for its load generator in a folder of ours alone, without TLS."""
    socket = f"unix:{private}/benchmarks"
    server.add_insecure_port(socket)
    folder = options.state_dir / "benchmarks"
    service = BenchmarkService(pool, BenchmarkStore(sessions), socket, folder)
    benchmarks_pb2_grpc.add_BenchmarkServiceServicer_to_server(service, server)
    return service


async def _until_interrupted(interrupts: InterruptHandler, work: Any) -> None:
    """Await ``work``; if interrupted or failed, leave no half-started engine behind."""
    task = asyncio.ensure_future(work)
    interrupted = asyncio.create_task(interrupts.first.wait())
    try:
        await asyncio.wait((task, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise KeyboardInterrupt
        task.result()
    except BaseException:
        _kill_children()
        raise
    finally:
        interrupted.cancel()
        task.cancel()


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


async def _finish_requests(
    pool: ModelPool, seconds: float, at_once: asyncio.Event, say: StatusCallback
) -> None:
    """Let running requests end by themselves for a while, then end them."""
    if pool.in_flight:
        say(f"finishing {pool.in_flight} request(s), at most {seconds:g} s; Ctrl-C again ends them now")
        await wait_until(lambda: not pool.in_flight, seconds, at_once)
    if pool.in_flight:
        say(f"cutting off {pool.in_flight} request(s)")
        await asyncio.gather(*(model.engine.abort_all() for model in pool if model.engine))
        await wait_until(lambda: not pool.in_flight, ABORT_SECONDS)
