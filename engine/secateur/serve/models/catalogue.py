"""secateur.v1.ModelService: which models there are, and how busy."""

from __future__ import annotations

import grpc

from secateur.serve.failures import Violation, invalid, reported
from secateur.serve.models.pool import Pool, ServedModel
from secateur.v1 import models_pb2, models_pb2_grpc

PAGE = 100


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Describes every model of the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @reported
    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        """Return a page of models, by name; the page token is the last name of the page before."""
        if request.page_size < 0:
            raise invalid(Violation("page_size", f"got {request.page_size}, at least 0"))
        size = min(request.page_size or PAGE, PAGE)
        names = sorted(name for name in self._pool.models if name > request.page_token)
        page = names[:size]
        return models_pb2.ListModelsResponse(
            models=[describe(self._pool.models[name]) for name in page],
            next_page_token=page[-1] if len(names) > size else "",
        )

    @reported
    async def GetModel(
        self, request: models_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.GetModelResponse:
        """Return one model."""
        return models_pb2.GetModelResponse(model=describe(self._pool.find(request.name)))


def describe(model: ServedModel) -> models_pb2.Model:
    """Return the wire form of a model and its counters."""
    described = models_pb2.Model(
        name=model.name,
        state=models_pb2.ModelState.Name(model.state.value),
        counters=models_pb2.EngineCounters(
            prompt_tokens=model.totals.prompt_tokens,
            generated_tokens=model.totals.generated_tokens,
            finished_requests=model.totals.finished,
            aborted_requests=model.totals.aborted,
        ),
    )
    engine = model.engine
    if engine is not None:
        described.architecture = engine.architecture
        described.dtype = engine.dtype
        described.max_model_len = engine.max_model_len
        described.kv_cache_tokens = engine.kv_cache_tokens
        described.load_seconds = engine.load_seconds
        described.counters.running_requests = engine.load.running
        described.counters.waiting_requests = engine.load.waiting
        described.counters.kv_cache_usage = engine.load.kv_cache_usage
    return described
