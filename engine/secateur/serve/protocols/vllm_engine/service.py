"""vllm.grpc.engine.VllmEngine: Generate, Abort and what a gateway asks before it sends requests.

Requests name no model: the one that answers is the alias "default", or the only one there is.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as pb

from secateur.serve.guard.call import current_principal
from secateur.serve.inference import generation
from secateur.serve.inference.generation import check_deadline
from secateur.serve.models.pool import ModelPool
from secateur.serve.protocols.vllm_engine.messages import (
    SAMPLING_PREFIX,
    aborted_message,
    chunk_message,
    complete_message,
    read_prompt,
    read_sampling,
)


class VllmEngineService:
    """Answers for the default model of the pool. Calls it does not have are unknown."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool
        self._running: defaultdict[tuple[str, str], set[asyncio.Task[None]]] = defaultdict(set)
        self._started = time.monotonic()
        self._last = 0.0

    async def Generate(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        """Stream token ids, or send them at once; several completions are told apart by their index."""
        check_deadline(context)
        self._last = time.time()
        ended: set[int] = set()
        writer = _ShieldedWriter(context)
        work = asyncio.create_task(_generate(self._pool, request, writer, ended))
        work.add_done_callback(_retrieve_exception)
        with self._abortable(request.request_id, work):
            await asyncio.wait({work})
        if not work.cancelled():
            return work.result()
        for index in range(max(1, request.sampling_params.n)):
            if index not in ended:
                await writer.write(aborted_message(index))

    async def Abort(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """End requests of the caller's own; other ids are ignored, as the request may just have ended."""
        for request_id in request.request_ids:
            for work in self._running.get((current_principal(), request_id), ()):
                work.cancel()
        return pb.AbortResponse()

    async def HealthCheck(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Say whether requests would be answered."""
        up = self._pool.up
        return pb.HealthCheckResponse(healthy=up, message="" if up else "not all models answer")

    async def GetModelInfo(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        model = self._pool.find("")
        engine = model.ready_engine()
        return pb.GetModelInfoResponse(
            model_path=model.name,
            served_model_name=model.name,
            is_generation=True,
            max_context_length=engine.max_model_len,
            max_req_input_len=engine.max_model_len - 1,
            vocab_size=engine.vocabulary,
            architectures=[engine.architecture],
        )

    async def GetServerInfo(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        engine = self._pool.find("").ready_engine()
        return pb.GetServerInfoResponse(
            active_requests=self._pool.in_flight,
            last_receive_timestamp=self._last,
            uptime_seconds=time.monotonic() - self._started,
            server_type="vllm-grpc",
            data_parallel_size=1,
            model_dtype=f"torch.{engine.dtype}",
        )

    @contextmanager
    def _abortable(self, request_id: str, work: asyncio.Task[None]) -> Iterator[None]:
        """Let `Abort` find the work; end it with the call."""
        key = (current_principal(), request_id)
        self._running[key].add(work)
        try:
            yield
        finally:
            work.cancel()
            self._running[key].discard(work)
            if not self._running[key]:
                del self._running[key]


def _retrieve_exception(work: asyncio.Future[None]) -> None:
    """Look at how it ended, as nobody does when the client is gone: asyncio would complain."""
    if not work.cancelled():
        work.exception()


class _ShieldedWriter:
    """Writes that are finished even if the one who waits for them is aborted: gRPC takes one at a time."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._last: asyncio.Future[None] | None = None

    async def write(self, message: Any) -> None:
        """Send a message after those before it."""
        if self._last is not None:
            await asyncio.wait({self._last})
        self._last = asyncio.ensure_future(self._context.write(message))
        self._last.add_done_callback(_retrieve_exception)
        await asyncio.shield(self._last)


async def _generate(pool: ModelPool, request: Any, writer: _ShieldedWriter, ended: set[int]) -> None:
    # Nothing is awaited between finding a model and opening the request: it cannot be unloaded in between.
    pieces = generation.generate(
        pool.find(""),
        read_prompt(request),
        read_sampling(request.sampling_params),
        whole=not request.stream,
        prefix=SAMPLING_PREFIX,
    )
    async with aclosing(pieces):
        async for piece in pieces:
            if request.stream:
                await writer.write(chunk_message(piece))
            if piece.finish_reason is not None:
                ended.add(piece.index)
                await writer.write(complete_message(piece))
