"""The life of a server: bind, load, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from secateur.errors import BadInput
from secateur.serve.health import DOWN, HealthReporter
from secateur.serve.inference.service import InferenceService
from secateur.serve.models.deployments import Deployments, Retention
from secateur.serve.models.keeper import Keeper
from secateur.serve.models.loader import Loader
from secateur.serve.models.pool import Pool
from secateur.serve.models.service import ModelService
from secateur.serve.models.startup import start_up
from secateur.serve.models.tables import Store
from secateur.serve.models.version import ServedModel
from secateur.serve.options import ServeOptions
from secateur.serve.state import open_state
from secateur.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
ABORT_SECONDS = 5.0

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
        BadInput: the address is taken or cannot be bound, or the database cannot be opened.
        SecateurError: a model cannot be loaded.
        KeyboardInterrupt: interrupted before all models were loaded.
    """
    started = time.monotonic()
    interrupts = Interrupts()
    store = Store(open_state(options.state))
    pool = Pool()
    pool.opening = True
    loader = Loader(say)
    deployments = Deployments(
        pool, store, loader, options.engine, Retention(options.keep_seconds, options.drain_seconds), say
    )
    server = grpc.aio.server(options=_channel_options(options))
    status = _add_services(server, pool, deployments, options)
    reporter = HealthReporter(status, pool, SERVICES)
    for spec in options.models:
        await status.set(f"model/{spec.name}", DOWN)
    await reporter.report()
    address = bind(server, options.listen)
    await server.start()
    say(f"listening on {address}; loading {len(options.models)} model(s), about 20 seconds on a CPU")
    tasks = [asyncio.create_task(reporter.follow())]
    try:
        await _unless(interrupts, start_up(options, pool, store, loader, say))
        await reporter.report()
        ready(Ready(address, list(pool), time.monotonic() - started))
        tasks.append(asyncio.create_task(Keeper(pool, deployments, loader, say).watch()))
        await interrupts.first.wait()
        pool.drain()
        await status.enter_graceful_shutdown()
        await _finish_requests(pool, options.drain_seconds, interrupts.second, say)
    finally:
        await server.stop(grace=0)
        for task in tasks:
            task.cancel()
        await deployments.close()
        await asyncio.gather(*(model.engine.shutdown() for model in pool if model.engine))
        _kill_children()
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
        ("grpc.max_receive_message_length", options.limits.message_bytes),
        ("grpc.max_send_message_length", options.limits.message_bytes),
        # Clients that wait long for a token keep the connection alive with pings; gRPC's defaults would
        # answer these with "too_many_pings" and hang up.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _add_services(
    server: grpc.aio.Server, pool: Pool, deployments: Deployments, options: ServeOptions
) -> health.aio.HealthServicer:
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceService(pool), server)
    models = ModelService(pool, deployments, options.roots)
    models_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return status


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
        _kill_children()
        raise
    finally:
        interrupted.cancel()
        task.cancel()


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


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
