"""The models of a server, as a client sees them."""

from __future__ import annotations

from secateur.client.connection import Connection
from secateur.v1 import models_pb2, models_pb2_grpc


class Models:
    """Calls of ``secateur.v1.ModelService``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = models_pb2_grpc.ModelServiceStub(connection.channel)

    def list(self) -> list[models_pb2.Model]:
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

    def get(self, name: str) -> models_pb2.Model:
        """Return one model and its counters."""
        request = models_pb2.GetModelRequest(name=name)
        return self._connection.call(self._stub.GetModel, request).model
