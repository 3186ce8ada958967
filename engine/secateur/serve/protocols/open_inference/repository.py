"""The model repository as the protocol sees it: every version of every model, loaded or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.rpc import code_pb2

from secateur.serve.failures import FieldViolation, RpcError, invalid_argument
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.models.pool import ModelEntry, ModelPool, ModelVersion, VersionState
from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.open_inference.parameters import read_parameters

STATES = {
    VersionState.LOADING: "LOADING",
    VersionState.SERVING: "READY",
    VersionState.DRAINING: "UNLOADING",
    VersionState.FAILED: "UNAVAILABLE",
    VersionState.UNLOADED: "UNAVAILABLE",
    VersionState.RESTARTING: "UNAVAILABLE",
}
UNLOAD_DEPENDENTS = "unload_dependents"
"""Triton's clients always send it; no model here depends on another."""


class ModelRepository:
    """Lists, loads and unloads versions.

    Args:
        pool: what there is.
        deployments: what changes it.
    """

    def __init__(self, pool: ModelPool, deployments: DeploymentManager) -> None:
        self._pool = pool
        self._deployments = deployments

    def index(self, request: Any) -> Any:
        """Return a RepositoryIndexResponse.

        Raises:
            RpcError: NOT_FOUND for a repository's name; there is one, without a name.
        """
        if request.repository_name:
            raise _no_repository(request.repository_name)
        response = wire.RepositoryIndexResponse()
        for version in self._pool:
            if version.state is VersionState.SERVING or not request.ready:
                response.models.add(
                    name=version.name,
                    version=version.version,
                    state=STATES[version.state],
                    reason="unloaded" if version.state is VersionState.UNLOADED else version.reason,
                )
        return response

    async def load(self, request: Any) -> str:
        """Load the version that the parameter "version" names; else the active one, else the newest.

        A version that is loaded stays as it is. A checkpoint the server does not know cannot be loaded this
        way: ModelService.LoadModelVersion can.

        Returns:
            the model's name.

        Raises:
            RpcError: no such model or version, another parameter, or it cannot be loaded.
        """
        model = self._model(request)
        version = _version_parameter(request.parameters)
        chosen = model.find(version) if version else model.active_version or _newest(model)
        await self._deployments.load_version(model.name, chosen.version)
        return model.name

    async def unload(self, request: Any) -> str:
        """Unload the version that the parameter "version" names, else all that are loaded.

        Returns:
            the model's name.

        Raises:
            RpcError: no such model or version, or another parameter.
        """
        model = self._model(request)
        version = _version_parameter(request.parameters)
        chosen = [model.find(version)] if version else list(model.versions.values())
        for one in chosen:
            if one.state is not VersionState.UNLOADED:
                await self._deployments.unload(model.name, one.version, force=True)
        return model.name

    def _model(self, request: Any) -> ModelEntry:
        """Return the model a request names.

        In KServe's form of these messages the model's name is field 1, which is the repository's in Triton's.
        """
        if request.model_name and request.repository_name:
            raise _no_repository(request.repository_name)
        name = request.model_name or request.repository_name
        if not name:
            raise invalid_argument(FieldViolation("model_name", "empty"))
        return self._pool.model(name)


def _newest(model: ModelEntry) -> ModelVersion:
    return list(model.versions.values())[-1]


def _version_parameter(parameters: Mapping[str, Any]) -> str:
    values = read_parameters(parameters)
    values.pop(UNLOAD_DEPENDENTS, None)
    version = values.pop("version", "")
    violations = [
        FieldViolation(f"parameters.{name}", f"unknown; known are version, {UNLOAD_DEPENDENTS}")
        for name in values
    ]
    if isinstance(version, bool) or not isinstance(version, str | int):
        violations.append(FieldViolation("parameters.version", "allowed is a text or a whole number"))
    if violations:
        raise invalid_argument(*violations)
    return str(version)


def _no_repository(name: str) -> RpcError:
    return RpcError(
        code_pb2.NOT_FOUND,
        "REPOSITORY_NOT_FOUND",
        f"no repository {name!r}; there is one, without a name",
        metadata={"repository": name},
    )


def empty_response(response: Any, model: str) -> Any:
    """Return Triton's empty response; KServe's clients find the model's name and ``true`` in it.

    KServe's response has model_name = 1 and isLoaded, or isUnloaded, = 2.
    """
    name = model.encode()
    assert len(name) < 128  # names have 64 letters at most: their length is one byte
    response.MergeFromString(b"\x0a" + bytes([len(name)]) + name + b"\x10\x01")
    return response
