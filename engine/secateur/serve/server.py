"""The life of a server: bind, load, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from secateur.serve.engine.engine import Engine, import_vllm, start_engine
from secateur.serve.engine.environment import prepare
from secateur.serve.engine.load import Load
from secateur.serve.guard.access import Access
from secateur.serve.guard.channel import bind, channel_options
from secateur.serve.guard.interceptor import Guard, Stage
from secateur.serve.guard.limits import Limits
from secateur.serve.inference.service import InferenceService
from secateur.serve.models.pool import Pool, ServedModel, State
from secateur.serve.models.service import ModelService
from secateur.serve.observe.observation import observing
from secateur.serve.options import ModelSpec, ServeOptions
from secateur.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
WATCH_SECONDS = 0.5
ABORT_SECONDS = 5.0
UP, DOWN = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """A server that answers: where, with what, and how long it took to get there."""

    address: str
    models: Sequence[ServedModel]
    seconds: float


class Interrupts:
    """Counts Ctrl-C and SIGTERM: the first asks for a clean end, the second for an immediate one."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def serve(options: ServeOptions, ready: Callable[[Ready], None], say: Say) -> None:
    """Serve until interrupted.

    Args:
        options: what to serve and how.
        ready: called once, when all models answer.
        say: takes lines for people about what goes on.

    Raises:
        BackendUnavailable: a package that an option needs is not installed.
        BadInput: an address is taken or cannot be bound, or a file is not what it should be.
        SecateurError: a model cannot be loaded.
        KeyboardInterrupt: interrupted before all models were loaded.
    """
    interrupts = Interrupts()
    pool = Pool(tuple(spec.name for spec in options.models))
    async with observing(options, lambda: _loads(pool)) as observers:
        await _serve(options, pool, _guarded_server(options, observers), interrupts, ready, say)
    say("stopped")


async def _serve(
    options: ServeOptions,
    pool: Pool,
    server: grpc.aio.Server,
    interrupts: Interrupts,
    ready: Callable[[Ready], None],
    say: Say,
) -> None:
    started = time.monotonic()
    status = _add_services(server, pool, options)
    await _report_health(status, pool)
    address = bind(server, options.listen, options.tls)
    await server.start()
    say(f"listening on {address}; loading {len(options.models)} model(s), about 20 seconds on a CPU")
    try:
        await _load(options, pool, interrupts, say)
        await _report_health(status, pool)
        ready(Ready(address, list(pool), time.monotonic() - started))
        watch = asyncio.create_task(_watch(status, pool, say))
        await interrupts.first.wait()
        watch.cancel()
        await status.enter_graceful_shutdown()
        await _lame_duck(options.lame_duck, interrupts.second, say)
        pool.drain()
        await _finish_requests(pool, options.drain_seconds, interrupts.second, say)
    finally:
        await server.stop(grace=0)
        await asyncio.gather(*(model.engine.shutdown() for model in pool if model.engine))


def _guarded_server(options: ServeOptions, observers: Sequence[Stage]) -> grpc.aio.Server:
    """Return a server without services yet, behind everything that guards it."""
    access = Access(options.tokens, options.open_to_all)
    if options.tokens is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, access.reload)
    guard = Guard(observers, [access, Limits(options.limits)])
    return grpc.aio.server(interceptors=[guard], options=channel_options(options.limits, options.connections))


def _loads(pool: Pool) -> Iterator[tuple[str, str, Load]]:
    """Yield model, version and load of every engine."""
    for model in pool:
        if model.engine is not None:
            yield model.name, model.version, model.engine.load


async def _lame_duck(seconds: float, at_once: asyncio.Event, say: Say) -> None:
    """Go on answering while load balancers find out that they should look elsewhere."""
    if seconds:
        say(f"health says NOT_SERVING; new calls are answered for {seconds:g} s more")
        with suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), seconds)


def _add_services(server: grpc.aio.Server, pool: Pool, options: ServeOptions) -> health.aio.HealthServicer:
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceService(pool), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(pool), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    if options.reflection:
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return status


async def _report_health(status: health.aio.HealthServicer, pool: Pool) -> None:
    """Per model as ``model/NAME``; the server ("") and its services are up if all models are."""
    for name, model in pool.models.items():
        answers = model.answering is not None and model.answering.state is State.SERVING
        await status.set(f"model/{name}", UP if answers else DOWN)
    for service in ("", *SERVICES):
        await status.set(service, UP if pool.up else DOWN)


async def _load(options: ServeOptions, pool: Pool, interrupts: Interrupts, say: Say) -> None:
    """Start all engines side by side.

    Raises:
        SecateurError: one cannot start; the others are stopped.
        KeyboardInterrupt: interrupted meanwhile.
    """
    prepare(options.engine, len(options.models))
    # First and alone: importing, and loading plugins, are not made for two threads at once.
    await _unless(interrupts, _in_thread(import_vllm))

    async def start(spec: ModelSpec) -> None:
        engine = await _in_thread(start_engine, spec, options.engine, len(options.models))
        pool.find(spec.name).loaded(engine)
        say(_loaded(spec, engine))

    await _unless(interrupts, asyncio.gather(*map(start, options.models)))


async def _unless(interrupts: Interrupts, work: Any) -> None:
    """Await ``work``; if interrupted or failed, leave no half-started engine behind."""
    task = asyncio.ensure_future(work)
    interrupted = asyncio.create_task(interrupts.first.wait())
    try:
        await asyncio.wait((task, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise KeyboardInterrupt
        task.result()
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        interrupted.cancel()
        task.cancel()


def _in_thread(function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    """Run a blocking function in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = function(*arguments)
        except BaseException as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return future


async def _watch(status: health.aio.HealthServicer, pool: Pool, say: Say) -> None:
    """Notice engines that die."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        for model in pool:
            if model.engine is not None and model.engine.dead and model.state is not State.FAILED:
                model.become(State.FAILED, "its engine died")
                say(f"{model.name}: the engine died; its requests are refused until the server is restarted")
                await _report_health(status, pool)


async def _finish_requests(pool: Pool, seconds: float, at_once: asyncio.Event, say: Say) -> None:
    """Let running requests end by themselves for a while, then end them."""
    if pool.in_flight:
        say(f"finishing {pool.in_flight} request(s), at most {seconds:g} s; Ctrl-C again ends them now")
        await _until_idle(pool, seconds, at_once)
    if pool.in_flight:
        say(f"cutting off {pool.in_flight} request(s)")
        await asyncio.gather(*(model.engine.abort_all() for model in pool if model.engine))
        await _until_idle(pool, ABORT_SECONDS, asyncio.Event())


async def _until_idle(pool: Pool, seconds: float, at_once: asyncio.Event) -> None:
    deadline = time.monotonic() + seconds
    while pool.in_flight and time.monotonic() < deadline and not at_once.is_set():
        await asyncio.sleep(0.02)


def _loaded(spec: ModelSpec, engine: Engine) -> str:
    return (
        f"{spec.name} loaded in {engine.load_seconds:.1f} s: {engine.architecture}, {engine.dtype}, "
        f"context {engine.max_model_len}, room for {engine.kv_cache_tokens} tokens"
    )
