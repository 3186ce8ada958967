"""The models of a server, as a client sees them."""

from __future__ import annotations

from secateur.client.call import AsyncSurface, Call, Surface, later, later_pages, now, now_pages
from secateur.v1 import models_pb2

SERVICE = "secateur.v1.ModelService"


def list_models() -> Call[list[models_pb2.Model]]:
    """Return all models of the server and their counters."""
    return Call(f"{SERVICE}.ListModels", models_pb2.ListModelsRequest(), lambda page: page.models)


def get_model(name: str) -> Call[models_pb2.Model]:
    """Return one model and its counters."""
    request = models_pb2.GetModelRequest(name=name)
    return Call(f"{SERVICE}.GetModel", request, lambda answer: answer.model)


class Models(Surface):
    """Calls of ``secateur.v1.ModelService``."""

    list = now_pages(list_models)
    get = now(get_model)


class AsyncModels(AsyncSurface):
    """The same, to be awaited."""

    list = later_pages(list_models)
    get = later(get_model)
