"""The models of a server, as a client sees and changes them; models.proto says what each call does."""

from __future__ import annotations

from secateur.client.call import AsyncSurface, Call, Surface, later, later_pages, now, now_pages
from secateur.v1 import models_pb2

SERVICE = "secateur.v1.ModelService"


def list_models() -> Call[list[models_pb2.Model]]:
    """Return all models of the server and their counters."""
    return Call(f"{SERVICE}.ListModels", models_pb2.ListModelsRequest(), lambda page: page.models)


def get_model(name: str = "") -> Call[models_pb2.Model]:
    """Return one model and its counters; the server's default if unsaid."""
    request = models_pb2.GetModelRequest(name=name)
    return Call(f"{SERVICE}.GetModel", request, lambda answer: answer.model)


def get_version(name: str, version: str = "") -> Call[models_pb2.ModelVersion]:
    """Return one version of a model; the active one if unsaid."""
    request = models_pb2.GetModelVersionRequest(name=name, version=version)
    return Call(f"{SERVICE}.GetModelVersion", request, lambda answer: answer.version)


def load(name: str, folder: str) -> Call[models_pb2.ModelVersion]:
    """Load a checkpoint folder of the server as a version, and return it once it can answer."""
    request = models_pb2.LoadModelVersionRequest(name=name, folder=folder)
    return Call(f"{SERVICE}.LoadModelVersion", request, lambda answer: answer.version)


def load_version(name: str, version: str) -> Call[models_pb2.ModelVersion]:
    """Load a version that the model has, and return it once it can answer."""
    request = models_pb2.LoadModelVersionRequest(name=name, version=version)
    return Call(f"{SERVICE}.LoadModelVersion", request, lambda answer: answer.version)


def plan_load(name: str, folder: str) -> Call[models_pb2.LoadModelVersionResponse]:
    """Return what `load` would make, and the memory it would take; nothing is loaded."""
    request = models_pb2.LoadModelVersionRequest(name=name, folder=folder, validate_only=True)
    return Call(f"{SERVICE}.LoadModelVersion", request)


def plan_activate(name: str, version: str) -> Call[models_pb2.ActivateModelVersionResponse]:
    """Return the memory that `activate` would take; nothing is activated."""
    request = models_pb2.ActivateModelVersionRequest(name=name, version=version, validate_only=True)
    return Call(f"{SERVICE}.ActivateModelVersion", request)


def activate(name: str, version: str, *, etag: str = "") -> Call[models_pb2.Model]:
    """Let a version answer the calls that name none, loading it first if need be."""
    request = models_pb2.ActivateModelVersionRequest(name=name, version=version, etag=etag)
    return Call(f"{SERVICE}.ActivateModelVersion", request, lambda answer: answer.model)


def rollback(name: str, *, etag: str = "") -> Call[models_pb2.Model]:
    """Let the version answer that did before."""
    request = models_pb2.RollbackModelRequest(name=name, etag=etag)
    return Call(f"{SERVICE}.RollbackModel", request, lambda answer: answer.model)


def unload(name: str, version: str, *, etag: str = "", force: bool = False) -> Call[models_pb2.Model]:
    """Let a version finish its requests, and free its memory."""
    request = models_pb2.UnloadModelVersionRequest(name=name, version=version, etag=etag, force=force)
    return Call(f"{SERVICE}.UnloadModelVersion", request, lambda answer: answer.model)


def delete(name: str, version: str, *, etag: str = "", force: bool = False) -> Call[None]:
    """Unload a version and forget it; its folder stays."""
    request = models_pb2.DeleteModelVersionRequest(name=name, version=version, etag=etag, force=force)
    return Call(f"{SERVICE}.DeleteModelVersion", request, lambda answer: None)


def set_alias(alias: str, model: str) -> Call[models_pb2.Model]:
    """Make a name stand for a model."""
    request = models_pb2.SetAliasRequest(alias=alias, model=model)
    return Call(f"{SERVICE}.SetAlias", request, lambda answer: answer.model)


def delete_alias(alias: str) -> Call[None]:
    """Forget an alias."""
    request = models_pb2.DeleteAliasRequest(alias=alias)
    return Call(f"{SERVICE}.DeleteAlias", request, lambda answer: None)


class Models(Surface):
    """Calls of ``secateur.v1.ModelService``."""

    list = now_pages(list_models)
    get = now(get_model)
    get_version = now(get_version)
    load = now(load)
    load_version = now(load_version)
    plan_load = now(plan_load)
    plan_activate = now(plan_activate)
    activate = now(activate)
    rollback = now(rollback)
    unload = now(unload)
    delete = now(delete)
    set_alias = now(set_alias)
    delete_alias = now(delete_alias)


class AsyncModels(AsyncSurface):
    """The same, to be awaited."""

    list = later_pages(list_models)
    get = later(get_model)
    get_version = later(get_version)
    load = later(load)
    load_version = later(load_version)
    plan_load = later(plan_load)
    plan_activate = later(plan_activate)
    activate = later(activate)
    rollback = later(rollback)
    unload = later(unload)
    delete = later(delete)
    set_alias = later(set_alias)
    delete_alias = later(delete_alias)
