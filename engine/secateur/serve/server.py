"""The life of a server: bind, load, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from secateur.errors import BadInput
from secateur.serve.engine.engine import Engine, import_vllm, start_engine
from secateur.serve.engine.environment import prepare
from secateur.serve.inference.service import InferenceService
from secateur.serve.models.pool import Pool, ServedModel, State
from secateur.serve.models.service import ModelService
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
        BadInput: the address is taken or cannot be bound.
        SecateurError: a model cannot be loaded.
        KeyboardInterrupt: interrupted before all models were loaded.
    """
    started = time.monotonic()
    interrupts = Interrupts()
    pool = Pool(tuple(spec.name for spec in options.models))
    server = grpc.aio.server(options=_channel_options(options))
    status = _add_services(server, pool)
    await _report_health(status, pool)
    address = bind(server, options.listen)
    await server.start()
    say(f"listening on {address}; loading {len(options.models)} model(s), about 20 seconds on a CPU")
    try:
        await _load(options, pool, interrupts, say)
        await _report_health(status, pool)
        ready(Ready(address, list(pool), time.monotonic() - started))
        watch = asyncio.create_task(_watch(status, pool, say))
        await interrupts.first.wait()
        watch.cancel()
        pool.drain()
        await status.enter_graceful_shutdown()
        await _finish_requests(pool, options.drain_seconds, interrupts.second, say)
    finally:
        await server.stop(grace=0)
        await asyncio.gather(*(model.engine.shutdown() for model in pool if model.engine))
    say("stopped")


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind and return the address with the real port.

    Raises:
        BadInput: taken, or not an address of this machine.
    """
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise BadInput("--listen", listen, "cannot be bound: in use, or not this machine's") from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


def _channel_options(options: ServeOptions) -> list[tuple[str, int]]:
    return [
        # Without this two servers may share a port on Linux, each getting some of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        # Clients that wait long for a token keep the connection alive with pings; gRPC's defaults would
        # answer these with "too_many_pings" and hang up.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _add_services(server: grpc.aio.Server, pool: Pool) -> health.aio.HealthServicer:
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceService(pool), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(pool), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
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
