"""The models of a server, as a client sees and changes them."""

from __future__ import annotations

import builtins

from secateur.client.connection import Connection
from secateur.v1 import models_pb2, models_pb2_grpc


class Models:
    """Calls of ``secateur.v1.ModelService``; models.proto says what each does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = models_pb2_grpc.ModelServiceStub(connection.channel)

    def list(self) -> builtins.list[models_pb2.Model]:
        """Return all models of the server and their counters."""
        models: list[models_pb2.Model] = []
        token = ""
        while True:
            page = self._connection.call(
                self._stub.ListModels, models_pb2.ListModelsRequest(page_token=token)
            )
            models.extend(page.models)
            token = page.next_page_token
            if not token:
                return models

    def get(self, name: str = "") -> models_pb2.Model:
        """Return one model and its counters."""
        request = models_pb2.GetModelRequest(name=name)
        return self._connection.call(self._stub.GetModel, request).model

    def get_version(self, name: str, version: str = "") -> models_pb2.ModelVersion:
        """Return one version of a model; the active one if unsaid."""
        request = models_pb2.GetModelVersionRequest(name=name, version=version)
        return self._connection.call(self._stub.GetModelVersion, request).version

    def load(self, name: str, folder: str) -> models_pb2.ModelVersion:
        """Load a checkpoint folder of the server as a version, and return it once it can answer."""
        request = models_pb2.LoadModelVersionRequest(name=name, folder=folder)
        return self._connection.call(self._stub.LoadModelVersion, request).version

    def load_version(self, name: str, version: str) -> models_pb2.ModelVersion:
        """Load a version that the model has."""
        request = models_pb2.LoadModelVersionRequest(name=name, version=version)
        return self._connection.call(self._stub.LoadModelVersion, request).version

    def plan(self, name: str, folder: str) -> models_pb2.LoadModelVersionResponse:
        """Return what `load` would do, and the memory it would take."""
        request = models_pb2.LoadModelVersionRequest(name=name, folder=folder, validate_only=True)
        return self._connection.call(self._stub.LoadModelVersion, request)  # type: ignore[no-any-return]

    def activate(self, name: str, version: str, *, etag: str = "") -> models_pb2.Model:
        """Let a version answer the calls that name none."""
        request = models_pb2.ActivateModelVersionRequest(name=name, version=version, etag=etag)
        return self._connection.call(self._stub.ActivateModelVersion, request).model

    def rollback(self, name: str, *, etag: str = "") -> models_pb2.Model:
        """Let the version answer that did before."""
        request = models_pb2.RollbackModelRequest(name=name, etag=etag)
        return self._connection.call(self._stub.RollbackModel, request).model

    def unload(self, name: str, version: str, *, etag: str = "", force: bool = False) -> models_pb2.Model:
        """Free the memory of a version."""
        request = models_pb2.UnloadModelVersionRequest(name=name, version=version, etag=etag, force=force)
        return self._connection.call(self._stub.UnloadModelVersion, request).model

    def delete(self, name: str, version: str, *, etag: str = "", force: bool = False) -> None:
        """Unload and forget a version."""
        request = models_pb2.DeleteModelVersionRequest(name=name, version=version, etag=etag, force=force)
        self._connection.call(self._stub.DeleteModelVersion, request)

    def set_alias(self, alias: str, model: str) -> models_pb2.Model:
        """Give a model another name."""
        request = models_pb2.SetAliasRequest(alias=alias, model=model)
        return self._connection.call(self._stub.SetAlias, request).model

    def delete_alias(self, alias: str) -> None:
        """Forget another name."""
        self._connection.call(self._stub.DeleteAlias, models_pb2.DeleteAliasRequest(alias=alias))
