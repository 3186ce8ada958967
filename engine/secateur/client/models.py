"""The models of a server, as a client sees and changes them; models.proto says what each call does."""

from __future__ import annotations

from secateur.client.async_connection import AsyncStub, async_paged, async_unary
from secateur.client.call import RpcCall
from secateur.client.connection import SyncStub, sync_paged, sync_unary
from secateur.v1 import models_pb2

SERVICE = "secateur.v1.ModelService"


def list_models() -> RpcCall[list[models_pb2.Model]]:
    """Return all models of the server and their counters."""
    return RpcCall(f"{SERVICE}.ListModels", models_pb2.ListModelsRequest(), lambda page: page.models)


def get_model(name: str = "") -> RpcCall[models_pb2.Model]:
    """Return one model and its counters; the server's default if unsaid."""
    request = models_pb2.GetModelRequest(name=name)
    return RpcCall(f"{SERVICE}.GetModel", request, lambda answer: answer.model)


def get_version(name: str, version: str = "") -> RpcCall[models_pb2.ModelVersion]:
    """Return one version of a model; the active one if unsaid."""
    request = models_pb2.GetModelVersionRequest(name=name, version=version)
    return RpcCall(f"{SERVICE}.GetModelVersion", request, lambda answer: answer.version)


def load(name: str, folder: str) -> RpcCall[models_pb2.ModelVersion]:
    """Load a checkpoint folder of the server as a version, and return it once it can answer."""
    request = models_pb2.LoadModelVersionRequest(name=name, folder=folder)
    return RpcCall(f"{SERVICE}.LoadModelVersion", request, lambda answer: answer.version)


def load_version(name: str, version: str) -> RpcCall[models_pb2.ModelVersion]:
    """Load a version that the model has, and return it once it can answer."""
    request = models_pb2.LoadModelVersionRequest(name=name, version=version)
    return RpcCall(f"{SERVICE}.LoadModelVersion", request, lambda answer: answer.version)


def plan_load(name: str, folder: str) -> RpcCall[models_pb2.LoadModelVersionResponse]:
    """Return what `load` would make, and the memory it would take; nothing is loaded."""
    request = models_pb2.LoadModelVersionRequest(name=name, folder=folder, validate_only=True)
    return RpcCall(f"{SERVICE}.LoadModelVersion", request)


def plan_activate(name: str, version: str) -> RpcCall[models_pb2.ActivateModelVersionResponse]:
    """Return the memory that `activate` would take; nothing is activated."""
    request = models_pb2.ActivateModelVersionRequest(name=name, version=version, validate_only=True)
    return RpcCall(f"{SERVICE}.ActivateModelVersion", request)


def activate(name: str, version: str, *, etag: str = "") -> RpcCall[models_pb2.Model]:
    """Let a version answer the calls that name none, loading it first if need be."""
    request = models_pb2.ActivateModelVersionRequest(name=name, version=version, etag=etag)
    return RpcCall(f"{SERVICE}.ActivateModelVersion", request, lambda answer: answer.model)


def rollback(name: str, *, etag: str = "") -> RpcCall[models_pb2.Model]:
    """Let the version answer that did before."""
    request = models_pb2.RollbackModelRequest(name=name, etag=etag)
    return RpcCall(f"{SERVICE}.RollbackModel", request, lambda answer: answer.model)


def unload(name: str, version: str, *, etag: str = "", force: bool = False) -> RpcCall[models_pb2.Model]:
    """Let a version finish its requests, and free its memory."""
    request = models_pb2.UnloadModelVersionRequest(name=name, version=version, etag=etag, force=force)
    return RpcCall(f"{SERVICE}.UnloadModelVersion", request, lambda answer: answer.model)


def delete(name: str, version: str, *, etag: str = "", force: bool = False) -> RpcCall[None]:
    """Unload a version and forget it; its folder stays."""
    request = models_pb2.DeleteModelVersionRequest(name=name, version=version, etag=etag, force=force)
    return RpcCall(f"{SERVICE}.DeleteModelVersion", request, lambda answer: None)


def set_alias(alias: str, model: str) -> RpcCall[models_pb2.Model]:
    """Make a name stand for a model."""
    request = models_pb2.SetAliasRequest(alias=alias, model=model)
    return RpcCall(f"{SERVICE}.SetAlias", request, lambda answer: answer.model)


def delete_alias(alias: str) -> RpcCall[None]:
    """Forget an alias; its model stays."""
    request = models_pb2.DeleteAliasRequest(alias=alias)
    return RpcCall(f"{SERVICE}.DeleteAlias", request, lambda answer: None)


class ModelsClient(SyncStub):
    """Calls of ``secateur.v1.ModelService``."""

    list = sync_paged(list_models)
    get = sync_unary(get_model)
    get_version = sync_unary(get_version)
    load = sync_unary(load)
    load_version = sync_unary(load_version)
    plan_load = sync_unary(plan_load)
    plan_activate = sync_unary(plan_activate)
    activate = sync_unary(activate)
    rollback = sync_unary(rollback)
    unload = sync_unary(unload)
    delete = sync_unary(delete)
    set_alias = sync_unary(set_alias)
    delete_alias = sync_unary(delete_alias)


class AsyncModelsClient(AsyncStub):
    """The same, to be awaited."""

    list = async_paged(list_models)
    get = async_unary(get_model)
    get_version = async_unary(get_version)
    load = async_unary(load)
    load_version = async_unary(load_version)
    plan_load = async_unary(plan_load)
    plan_activate = async_unary(plan_activate)
    activate = async_unary(activate)
    rollback = async_unary(rollback)
    unload = async_unary(unload)
    delete = async_unary(delete)
    set_alias = async_unary(set_alias)
    delete_alias = async_unary(delete_alias)
