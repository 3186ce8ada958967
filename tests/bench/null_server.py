"""A server without a model: streams made-up tokens at a set pace, and misbehaves on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from secateur.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc


@dataclass
class Behaviour:
    """What the server does; may be changed while it runs.

    Attributes:
        ttft: seconds until the first token.
        itl: seconds between tokens.
        slots: requests answered at the same time; the others wait. None = all.
        refuse: a status for every request, or None.
        die_after: tokens after which a stream breaks off; None = never.
        stalled: while set, no request begins.
        checkpoint: what is said of it; None = nothing.
    """

    ttft: float = 0.0
    itl: float = 0.0
    slots: int | None = None
    refuse: grpc.StatusCode | None = None
    die_after: int | None = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    checkpoint: models_pb2.Checkpoint | None = None
    seen: list[Any] = field(default_factory=list)


class NullService(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, behaviours: dict[str, Behaviour]) -> None:
        self._behaviours = behaviours
        self._slots = {
            name: asyncio.Semaphore(behaviour.slots)
            for name, behaviour in behaviours.items()
            if behaviour.slots is not None
        }

    async def StreamGenerate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        behaviour = self._behaviours[request.model]
        behaviour.seen.append(request)
        if behaviour.refuse is not None:
            await context.abort(behaviour.refuse, "refused on purpose")
        slots = self._slots.get(request.model)
        if slots is not None:
            async with slots:
                async for response in self._tokens(behaviour, request, context):
                    yield response
        else:
            async for response in self._tokens(behaviour, request, context):
                yield response

    async def _tokens(self, behaviour: Behaviour, request: Any, context: Any) -> AsyncIterator[Any]:
        while behaviour.stalled.is_set():
            await asyncio.sleep(0.005)
        loop = asyncio.get_running_loop()
        count = request.sampling.max_tokens
        due = loop.time() + behaviour.ttft
        for number in range(count):
            if (delay := due - loop.time()) > 0:
                await asyncio.sleep(delay)
            due += behaviour.itl
            if number == behaviour.die_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "died on purpose")
            response = inference_pb2.StreamGenerateResponse(token_ids=[number], model=request.model)
            if number == count - 1:
                response.finish_reason = inference_pb2.FINISH_REASON_LENGTH
                response.usage.prompt_tokens = len(request.token_ids.ids)
                response.usage.completion_tokens = count
                response.timings.queue_ms = 0.0
                response.timings.prefill_ms = 1e3 * behaviour.ttft
                response.timings.decode_ms = 1e3 * behaviour.itl * (count - 1)
            yield response

    async def Tokenize(self, request: Any, context: Any) -> Any:
        return inference_pb2.TokenizeResponse(token_ids=range(100, 400), model=request.model)


class NullModels(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, behaviours: dict[str, Behaviour]) -> None:
        self._behaviours = behaviours

    async def GetModel(self, request: Any, context: Any) -> Any:
        name = request.name or next(iter(self._behaviours))
        if name not in self._behaviours:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {name!r}")
        model = models_pb2.Model(name=name, dtype="float32", active_version="1")
        if (checkpoint := self._behaviours[name].checkpoint) is not None:
            model.versions.add(model=name, version="1", active=True, checkpoint=checkpoint)
        return models_pb2.GetModelResponse(model=model)


def add_null_services(server: grpc.aio.Server, behaviours: dict[str, Behaviour]) -> None:
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(NullService(behaviours), server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(NullModels(behaviours), server)


@asynccontextmanager
async def null_server(**behaviours: Behaviour) -> AsyncIterator[str]:
    """Run the server on this event loop; yields its address."""
    server = grpc.aio.server()
    add_null_services(server, behaviours)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)
