"""inference.GRPCInferenceService: the Open Inference Protocol, and what Triton adds to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

import grpc
from google.rpc import code_pb2

from secateur.serve.failures import FieldViolation, RpcError, invalid_argument, to_rpc_error, unavailable
from secateur.serve.guard.call import current_call
from secateur.serve.inference import generation
from secateur.serve.inference.generation import ABORT, CompletionChunk, check_deadline
from secateur.serve.inference.prompt import GenerationPrompt
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.models.pool import ModelPool, ModelVersion, VersionState
from secateur.serve.protocols.open_inference import description, repository, wire
from secateur.serve.protocols.open_inference.infer_request import InferRequest, read_infer_request
from secateur.serve.protocols.open_inference.repository import ModelRepository
from secateur.serve.protocols.open_inference.response import ResponseBuilder, error_response
from secateur.serve.protocols.open_inference.statistics import RequestStatistics
from secateur.serve.protocols.open_inference.stream import handle_stream

EXTENSIONS = ("model_repository", "model_configuration", "parameters", "schedule_policy", "statistics")
log = logging.getLogger(__name__)


class OpenInferenceService:
    """Answers for every model of the pool. It has no calls for shared memory, traces and logs."""

    def __init__(self, pool: ModelPool, deployments: DeploymentManager) -> None:
        self._pool = pool
        self._repository = ModelRepository(pool, deployments)
        self._statistics = RequestStatistics()

    async def ServerLive(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Say that the process is there."""
        return wire.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Say whether all models answer that should."""
        return wire.ServerReadyResponse(ready=self._pool.up)

    async def ModelReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Say whether a model answers; a name or version that does not exist is NOT_FOUND."""
        try:
            model = self._pool.find(request.name, request.version)
        except RpcError as refusal:
            if refusal.code == code_pb2.NOT_FOUND:
                raise
            return wire.ModelReadyResponse(ready=False)
        alive = model.engine is not None and not model.engine.dead
        return wire.ModelReadyResponse(ready=alive and model.state is VersionState.SERVING)

    async def ServerMetadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return wire.ServerMetadataResponse(
            name="secateur", version=version("secateur"), extensions=EXTENSIONS
        )

    async def ModelMetadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        model = self._pool.model(request.name)
        if request.version:
            model.find(request.version)
        return description.metadata(model)

    async def ModelConfig(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Describe a version in Triton's terms."""
        model = self._pool.model(request.name).find(request.version)
        return wire.ModelConfigResponse(config=description.config(model))

    async def ModelStatistics(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Return counts of the requests that came through this service."""
        if request.name:
            model = self._pool.model(request.name)
            chosen = [model.find(request.version)] if request.version else list(model.versions.values())
        elif request.version:
            raise invalid_argument(FieldViolation("version", "given without a name"))
        else:
            chosen = list(self._pool)
        return wire.ModelStatisticsResponse(model_stats=map(self._statistics.describe, chosen))

    async def RepositoryIndex(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """List all versions of all models."""
        return self._repository.index(request)

    async def RepositoryModelLoad(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Load a version that is known."""
        name = await self._repository.load(request)
        return repository.empty_response(wire.RepositoryModelLoadResponse(), name)

    async def RepositoryModelUnload(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Unload versions; they stay known."""
        name = await self._repository.unload(request)
        return repository.empty_response(wire.RepositoryModelUnloadResponse(), name)

    async def ModelInfer(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        check_deadline(context)
        async with aclosing(self._responses(request, streaming=False)) as responses:
            return await anext(responses)

    async def ModelStreamInfer(self, requests: AsyncIterable[Any], context: grpc.aio.ServicerContext) -> None:
        """Answer requests as they come; one that fails is told so, and the others go on."""
        check_deadline(context)
        await handle_stream(requests, self._messages, context.write)

    async def _messages(self, request: Any) -> AsyncGenerator[Any]:
        """Yield the responses to one request of a stream, its failure among them."""
        call = current_call()
        try:
            if call is not None:
                call.admit()
            async with aclosing(self._responses(request, streaming=True)) as responses:
                async for response in responses:
                    yield wire.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            refusal = to_rpc_error(error)
            if refusal.code == code_pb2.INTERNAL and refusal is not error:
                log.exception("a request of a stream failed: a bug")
            yield error_response(request, refusal)

    async def _responses(self, request: Any, streaming: bool) -> AsyncGenerator[Any]:
        """Yield one response, or several if the request wants a stream."""
        model = self._pool.find(request.model_name, request.model_version)
        with self._statistics.request(model) as record:
            infer_request = read_infer_request(request)
            if infer_request.stream and not streaming:
                complaint = "got true, but ModelInfer has one answer; use ModelStreamInfer"
                raise invalid_argument(FieldViolation("inputs[stream]", complaint))
            answer = ResponseBuilder(request.id, infer_request, model)
            async with aclosing(_pieces(model, infer_request)) as pieces:
                if infer_request.stream:
                    async for piece in pieces:
                        if piece.summary is not None:
                            record.complete(piece.summary)
                        yield answer.part(piece)
                else:
                    whole = [piece async for piece in pieces]
                    record.complete(whole[-1].summary)
                    yield answer.whole(whole)


async def _pieces(model: ModelVersion, infer_request: InferRequest) -> AsyncGenerator[CompletionChunk]:
    """Yield the continuations.

    Raises:
        RpcError: UNAVAILABLE if the server cut one off; DEADLINE_EXCEEDED when the question's time is over.
    """
    generated = generation.generate(
        model,
        GenerationPrompt("inputs[text_input]", text=infer_request.text),
        infer_request.sampling,
        priority=infer_request.priority,
        whole=not infer_request.stream,
        prefix=infer_request.field_prefix,
    )
    loop = asyncio.get_running_loop()
    end = None if infer_request.timeout_seconds is None else loop.time() + infer_request.timeout_seconds
    async with aclosing(generated):
        while True:
            # Not around the whole: time must not run out in the middle of writing a response.
            try:
                async with asyncio.timeout_at(end):
                    piece = await anext(generated, None)
            except TimeoutError:
                message = f"not done after the request's timeout of {infer_request.timeout_seconds:g} s"
                raise RpcError(code_pb2.DEADLINE_EXCEEDED, "TIMEOUT", message) from None
            if piece is None:
                return
            if piece.finish_reason == ABORT:
                raise unavailable("SHUTTING_DOWN", "the request was cut off")
            yield piece
