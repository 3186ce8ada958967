"""The models being served, by name: which version answers a call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from google.rpc import code_pb2

from secateur.serve.failures import RpcError, unavailable
from secateur.serve.models.version import LOADING_RETRY_SECONDS, ModelVersion, VersionState

__all__ = [
    "DEFAULT_ALIAS",
    "FIRST_VERSION",
    "ModelEntry",
    "ModelPool",
    "ModelVersion",
    "VersionState",
    "etag",
]

DEFAULT_ALIAS = "default"
FIRST_VERSION = "1"


@dataclass
class ModelEntry:
    """A name that clients use.

    Attributes:
        versions: by their number, in the order they were made.
        active: the version that answers calls which name none; None while there is none.
        previous: the one that was active before.
        numbered: how many versions were ever made.
        given: the folder that the command line gave for it; empty if it was made through the API.
    """

    name: str
    versions: dict[str, ModelVersion] = field(default_factory=dict)
    active: str | None = None
    previous: str | None = None
    numbered: int = 0
    given: str = ""

    @property
    def active_version(self) -> ModelVersion | None:
        """The active version."""
        return self.versions[self.active] if self.active else None

    @property
    def up(self) -> bool:
        """False if calls that name no version are refused although they should not be."""
        if self.active_version is None:
            return not (self.given or self.previous)  # what is new is not missed yet
        return self.active_version.state in (
            VersionState.SERVING,
            VersionState.UNLOADED,
        )

    def activate(self, version: str) -> ModelVersion | None:
        """Let a version answer; return the one that did so far, if it is another."""
        before = self.active_version
        if self.active == version:
            return None
        self.previous, self.active = self.active, version
        return before

    def find(self, version: str = "") -> ModelVersion:
        """Return a version; the active one if unsaid.

        Raises:
            RpcError: NOT_FOUND; without an active version, what its first one says.
        """
        if not version:
            if self.active_version is not None:
                return self.active_version
            loading = [one for one in self.versions.values() if one.state is VersionState.LOADING]
            if loading:
                return loading[0]
            raise RpcError(
                code_pb2.FAILED_PRECONDITION,
                "NO_ACTIVE_VERSION",
                f"no version of {self.name} is active",
                metadata={"model": self.name},
            )
        if version not in self.versions:
            known_versions = ", ".join(self.versions)
            raise RpcError(
                code_pb2.NOT_FOUND,
                "VERSION_NOT_FOUND",
                f"{self.name} has no version {version!r}; there are: {known_versions}",
                metadata={"model": self.name, "version": version, "versions": known_versions},
            )
        return self.versions[version]


def etag(model: ModelEntry) -> str:
    """Return what changes whenever versions, or which of them is active or loaded, change."""
    facts: list[object] = [model.name, model.active, model.previous, model.numbered]
    facts += [(version.version, version.engine is not None) for version in model.versions.values()]
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


class ModelPool:
    """All models of a server.

    Args:
        names: models that are about to be loaded, each with one version.

    Attributes:
        models: by name.
        aliases: alias -> name of a model.
        opening: it is not known yet which models there are.
        changed: called whenever the state of a version changes.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.models: dict[str, ModelEntry] = {}
        self.aliases: dict[str, str] = {}
        self.changed: Callable[[], None] = lambda: None
        self.opening = False
        self._closing = False
        for name in names:
            model = self.models[name] = ModelEntry(name)
            model.active = self.add_version(model).version

    def __iter__(self) -> Iterator[ModelVersion]:
        """Every version of every model."""
        return (version for model in self.models.values() for version in model.versions.values())

    @property
    def closing(self) -> bool:
        """True once the server is ending."""
        return self._closing

    @property
    def in_flight(self) -> int:
        """Requests being answered, over all models."""
        return sum(version.in_flight for version in self)

    @property
    def up(self) -> bool:
        """True if every model answers that should."""
        return not (self._closing or self.opening) and all(model.up for model in self.models.values())

    def add_version(self, model: ModelEntry, version: str = "") -> ModelVersion:
        """Give a model one more version; the next number if unsaid."""
        number = version or str(model.numbered + 1)
        model.numbered = max(model.numbered, int(number))
        added = model.versions[number] = ModelVersion(model.name, number, lambda: self.changed())
        return added

    def find(self, name: str, version: str = "") -> ModelVersion:
        """Return what answers a call for a model, or an alias of one, and a version.

        Args:
            name: empty: what the alias "default" stands for, or else the only model there is.
            version: empty: the active one.

        Raises:
            RpcError: NOT_FOUND, saying what there is; UNAVAILABLE once the server is ending.
        """
        if self._closing:
            raise unavailable("SHUTTING_DOWN", "the server is shutting down")
        return self.model(name).find(version)

    def model(self, name: str) -> ModelEntry:
        """Return the model of a name or alias; for an empty name see `find`.

        Raises:
            RpcError: NOT_FOUND, saying which models there are.
        """
        if not name and DEFAULT_ALIAS not in self.aliases and len(self.models) == 1:
            return next(iter(self.models.values()))
        requested_name = name or DEFAULT_ALIAS
        requested_name = self.aliases.get(requested_name, requested_name)
        if requested_name in self.models:
            return self.models[requested_name]
        if self.opening:
            raise unavailable("MODEL_LOADING", "the server is still loading", LOADING_RETRY_SECONDS)
        known_names = ", ".join(sorted({*self.models, *self.aliases}))
        message = f"no model {name!r}" if name else "no model named, and there are several"
        raise RpcError(
            code_pb2.NOT_FOUND,
            "MODEL_NOT_FOUND",
            f"{message}; there are: {known_names or 'none'}",
            metadata={"model": name, "models": known_names},
        )

    def drain(self) -> None:
        self._closing = True
        self.changed()
