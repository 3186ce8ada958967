"""secateur.v1.ModelService: which models there are, and how busy."""

from __future__ import annotations

import grpc

from secateur.serve.failures import Violation, invalid, reported
from secateur.serve.models.description import describe, describe_version
from secateur.serve.models.pool import Pool
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
            models=[describe(self._pool.models[name], self._pool) for name in page],
            next_page_token=page[-1] if len(names) > size else "",
        )

    @reported
    async def GetModel(
        self, request: models_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.GetModelResponse:
        """Return one model."""
        return models_pb2.GetModelResponse(model=describe(self._pool.model(request.name), self._pool))

    @reported
    async def GetModelVersion(
        self, request: models_pb2.GetModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.GetModelVersionResponse:
        """Return one version."""
        model = self._pool.model(request.name)
        version = describe_version(model.find(request.version), model)
        return models_pb2.GetModelVersionResponse(version=version)
