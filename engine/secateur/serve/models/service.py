"""secateur.v1.ModelService: which models there are, how busy, and changing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.guard.roots import resolve_within_roots
from secateur.serve.models.checkpoint import Checkpoint
from secateur.serve.models.deployments import DeploymentManager, require_etag
from secateur.serve.models.description import (
    describe,
    describe_checkpoint,
    describe_plan,
    describe_version,
)
from secateur.serve.models.pool import ModelEntry, ModelPool
from secateur.serve.models.version import ModelVersion
from secateur.v1 import models_pb2, models_pb2_grpc

DEFAULT_PAGE_SIZE = 100


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Describes the models of a pool, and changes them.

    Args:
        pool: what is served.
        deployments: changes it.
        roots: folders below which clients may name checkpoints.
    """

    def __init__(self, pool: ModelPool, deployments: DeploymentManager, roots: Sequence[Path]) -> None:
        self._pool = pool
        self._deployments = deployments
        self._roots = [root.resolve() for root in roots]

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        """Return a page of models, by name; the page token is the last name of the page before."""
        if request.page_size < 0:
            raise invalid_argument(FieldViolation("page_size", f"got {request.page_size}, at least 0"))
        size = min(request.page_size or DEFAULT_PAGE_SIZE, DEFAULT_PAGE_SIZE)
        names = sorted(name for name in self._pool.models if name > request.page_token)
        page = names[:size]
        return models_pb2.ListModelsResponse(
            models=[self._described(self._pool.models[name]) for name in page],
            next_page_token=page[-1] if len(names) > size else "",
        )

    async def GetModel(
        self, request: models_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.GetModelResponse:
        return models_pb2.GetModelResponse(model=self._described(self._pool.model(request.name)))

    async def GetModelVersion(
        self, request: models_pb2.GetModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.GetModelVersionResponse:
        version = self._pool.model(request.name).find(request.version)
        return models_pb2.GetModelVersionResponse(version=self._described_version(version))

    async def LoadModelVersion(
        self, request: models_pb2.LoadModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.LoadModelVersionResponse:
        """Load a folder as a version, or a version that there is."""
        source = request.WhichOneof("source")
        if source is None:
            raise invalid_argument(FieldViolation("source", "give one of folder, version"))
        if source == "version":
            return await self._load_version(request)
        folder = resolve_within_roots("folder", request.folder, self._roots)
        if not folder.is_dir():
            raise invalid_argument(
                FieldViolation("folder", f"got {request.folder}, a file; a checkpoint is a folder")
            )
        if request.validate_only:
            planned, plan = await self._deployments.plan(request.name, folder)
            if isinstance(planned, Checkpoint):
                version = models_pb2.ModelVersion(model=request.name, checkpoint=describe_checkpoint(planned))
            else:
                version = self._described_version(planned)
            return models_pb2.LoadModelVersionResponse(version=version, plan=describe_plan(plan))
        number = await self._deployments.load(request.name, folder)
        loaded = self._pool.model(request.name).find(number)
        return models_pb2.LoadModelVersionResponse(version=self._described_version(loaded))

    async def _load_version(
        self, request: models_pb2.LoadModelVersionRequest
    ) -> models_pb2.LoadModelVersionResponse:
        response = models_pb2.LoadModelVersionResponse()
        if request.validate_only:
            version = self._deployments.version(request.name, request.version)
            response.plan.CopyFrom(describe_plan(self._deployments.plan_for(version)))
        else:
            version = await self._deployments.load_version(request.name, request.version)
        response.version.CopyFrom(self._described_version(version))
        return response

    async def ActivateModelVersion(
        self, request: models_pb2.ActivateModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ActivateModelVersionResponse:
        response = models_pb2.ActivateModelVersionResponse()
        if request.validate_only:
            version = self._deployments.version(request.name, request.version)
            model = self._pool.model(request.name)
            require_etag(model, request.etag)
            response.plan.CopyFrom(describe_plan(self._deployments.plan_for(version)))
        else:
            model = await self._deployments.activate(request.name, request.version, request.etag)
        response.model.CopyFrom(self._described(model))
        return response

    async def RollbackModel(
        self, request: models_pb2.RollbackModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.RollbackModelResponse:
        """Let the version answer that did before."""
        model = await self._deployments.rollback(request.name, request.etag)
        return models_pb2.RollbackModelResponse(model=self._described(model))

    async def UnloadModelVersion(
        self, request: models_pb2.UnloadModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.UnloadModelVersionResponse:
        """Free the memory of a version."""
        model = await self._deployments.unload(request.name, request.version, request.etag, request.force)
        return models_pb2.UnloadModelVersionResponse(model=self._described(model))

    async def DeleteModelVersion(
        self, request: models_pb2.DeleteModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.DeleteModelVersionResponse:
        await self._deployments.delete(request.name, request.version, request.etag, request.force)
        return models_pb2.DeleteModelVersionResponse()

    async def SetAlias(
        self, request: models_pb2.SetAliasRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.SetAliasResponse:
        """Give a model another name."""
        model = await self._deployments.set_alias(request.alias, request.model)
        return models_pb2.SetAliasResponse(model=self._described(model))

    async def DeleteAlias(
        self, request: models_pb2.DeleteAliasRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.DeleteAliasResponse:
        await self._deployments.delete_alias(request.alias)
        return models_pb2.DeleteAliasResponse()

    def _described(self, model: ModelEntry) -> models_pb2.Model:
        return describe(model, self._pool)

    def _described_version(self, version: ModelVersion) -> models_pb2.ModelVersion:
        return describe_version(version, self._pool.model(version.name))
