"""Changing what is served while it is served: load, activate, roll back, unload, delete.

Whatever is started here goes on when the one who asked for it leaves, and the same request joins what is
going on. The database is written first; then the change itself is one step of the event loop, so no call
sees half of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from google.rpc import code_pb2

from secateur.config.serve import MODEL_NAME, EngineOptions
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument, unavailable
from secateur.serve.models.checkpoint import Checkpoint, read_checkpoint_in_subprocess
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.plan import AvailableMemory, MemoryPlan, plan_memory
from secateur.serve.models.pool import ModelEntry, ModelPool
from secateur.serve.models.pool import etag as etag_of
from secateur.serve.models.tables import ModelRow, ModelStore, VersionRow
from secateur.serve.models.version import LOADING_RETRY_SECONDS, ModelVersion, VersionState

RETENTION_SECONDS = 600.0
DRAIN_SECONDS = 30.0
ABORT_SECONDS = 5.0
POLL_SECONDS = 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class Retention:
    """How versions leave.

    Attributes:
        keep_seconds: how long one that was replaced stays loaded for a rollback.
        drain_seconds: how long requests of one that is unloaded may go on.
    """

    keep_seconds: float = RETENTION_SECONDS
    drain_seconds: float = DRAIN_SECONDS


class DeploymentManager:
    """Changes a pool.

    Args:
        pool: what is served.
        store: remembers it.
        loader: starts engines.
        options: how engines run.
        retention: how versions leave.
        say: takes lines for people.
        available_memory: says how much memory there is, given the number of engines.
        read: checks and describes a checkpoint.
    """

    def __init__(
        self,
        pool: ModelPool,
        store: ModelStore,
        loader: EngineLoader,
        options: EngineOptions,
        retention: Retention,
        say: Callable[[str], None],
        available_memory: Callable[[int], AvailableMemory] | None = None,
        read: Callable[[Path], Awaitable[Checkpoint]] = read_checkpoint_in_subprocess,
    ) -> None:
        self._pool = pool
        self._store = store
        self._loader = loader
        self._options = options
        self._retention = retention
        self._say = say
        self._available_memory = available_memory or partial(AvailableMemory.now, ranks=options.ranks)
        self._read = read
        self._opened = False
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._starting = asyncio.Lock()  # one engine at a time, so that a plan is not overtaken
        self._changing = asyncio.Lock()  # around every change of what is active or known

    def open(self) -> None:
        """Take requests: everything that is served from the start on is loaded."""
        self._opened = True

    # Loading

    async def load(self, name: str, folder: Path) -> str:
        """Load a checkpoint as a version of a model, and return the version.

        A checkpoint that the model has already is not added again. A new name makes a new model, whose
        first version is active at once.

        Args:
            name: of the model, or an alias of it.
            folder: the checkpoint; absolute, without symbolic links.

        Raises:
            RpcError: it is no checkpoint, does not fit into memory, or its engine is not fit to serve.
        """
        name = self._name_for(name)
        version = await self._run_once(("load", name, folder), lambda: self._load_folder(name, folder))
        return version.version

    async def load_version(self, name: str, version: str) -> ModelVersion:
        """Load a version that the model has; one that is loaded stays so, until it is unloaded.

        Raises:
            RpcError: as `load`, or NOT_FOUND.
        """
        served = self.version(name, version)
        await self._run_once(("load", served.name, version), lambda: self._ensure_loaded(served))
        return served

    def checkpoint_folder(self, name: str) -> Path:
        """The checkpoint folder of a model's active version.

        Raises:
            RpcError: there is no such model, or its checkpoint is still being read.
        """
        checkpoint = self._pool.find(name).checkpoint
        if checkpoint is None:
            raise unavailable("MODEL_LOADING", f"{name} is still loading", 1.0)
        return checkpoint.folder

    async def plan(self, name: str, folder: Path) -> tuple[ModelVersion | Checkpoint, MemoryPlan]:
        """Say what `load` would do: the version that there is or the checkpoint of a new one, and its memory.

        Raises:
            RpcError: it is no checkpoint.
        """
        name = self._name_for(name)
        checkpoint = await self._read(folder)
        known_version = self._version_of(name, checkpoint)
        return known_version or checkpoint, self.plan_for(known_version, checkpoint)

    def plan_for(self, version: ModelVersion | None, checkpoint: Checkpoint | None = None) -> MemoryPlan:
        """Plan the memory of a version, or of a checkpoint that is none yet."""
        memory = self._available_memory(sum(one.engine is not None for one in self._pool))
        if version is not None and version.engine is not None:
            return MemoryPlan(0, 0, 0, memory.available, True)
        checkpoint = checkpoint or (version.checkpoint if version is not None else None)
        needed = memory.footprint(checkpoint, self._options)
        kept_versions = [one for one in self._pool if one.unload_due is not None and one.engine is not None]
        kept_versions.sort(key=lambda one: one.unload_due or 0.0)
        return plan_memory(
            needed, self._options, memory, {str(one): self._memory_of(one, memory) for one in kept_versions}
        )

    async def _load_folder(self, name: str, folder: Path) -> ModelVersion:
        checkpoint = await self._read(folder)
        known_version = self._version_of(name, checkpoint)
        if known_version is None:
            return await self._load_new(name, checkpoint)
        await self._ensure_loaded(known_version)
        return known_version

    async def _load_new(self, name: str, checkpoint: Checkpoint) -> ModelVersion:
        model = self._pool.models.setdefault(name, ModelEntry(name))
        version = self._pool.add_version(model)
        version.checkpoint = checkpoint
        try:
            async with version.lock:
                await self._start(version)
                async with self._changing:
                    active = model.active or version.version
                    row = model_row(model, active=active)
                    await asyncio.to_thread(self._store.put, row, version_row(version, loaded=True))
                    model.active = active
        except BaseException:
            await self._forget_failed(model, version)
            raise
        self._pool.changed()
        return version

    async def _forget_failed(self, model: ModelEntry, version: ModelVersion) -> None:
        engine = version.without_engine(VersionState.FAILED)
        del model.versions[version.version]
        if not model.versions:
            del self._pool.models[model.name]
        self._pool.changed()
        if engine is not None:
            await engine.shutdown()

    async def _ensure_loaded(self, version: ModelVersion) -> None:
        version.unload_due = None  # it is wanted: nobody may unload it to make room
        async with version.lock:
            if version.state is not VersionState.SERVING:
                before, reason = version.state, version.reason
                try:
                    await self._loader.verify(version)
                    await self._start(version)
                except BaseException:
                    version.become(before, reason)
                    raise
            await asyncio.to_thread(self._store.set_loaded, version.name, version.version, True)

    async def _start(self, version: ModelVersion) -> None:
        async with self._starting:
            self._require_open()
            planned = self.plan_for(version)
            planned.require(str(version))
            for name in planned.unloads:
                await self._unload_kept(name)
            version.become(VersionState.LOADING)
            options = planned.applied_to(self._options)
            num_engines = 1 + sum(one.engine is not None for one in self._pool)
            before = self._available_memory(num_engines).available
            await self._loader.start(version, options, num_engines)
            if line := self._available_memory(num_engines).taken_since(before, planned.needed):
                self._say(f"{version} {line}")

    async def _unload_kept(self, name: str) -> None:
        for version in list(self._pool):
            if str(version) == name and version.unload_due is not None:
                await self.unload(version.name, version.version)

    # Activating

    async def activate(self, name: str, version: str, etag: str = "") -> ModelEntry:
        """Let a version answer the calls that name none, loading it first if need be.

        The one that did so far stays loaded for a while, if memory allows.

        Raises:
            RpcError: as `load_version`; ABORTED if the model is no longer what ``etag`` says.
        """
        model = self._model(name)
        served = self.version(name, version)
        require_etag(model, etag)
        expected_versions = (model.active, model.previous) if etag else None
        await self._run_once(
            ("activate", model.name, version), lambda: self._activate(model, served, expected_versions)
        )
        return model

    async def rollback(self, name: str, etag: str = "") -> ModelEntry:
        """Activate the version that was active before.

        Raises:
            RpcError: as `activate`; FAILED_PRECONDITION if there is none.
        """
        model = self._model(name)
        require_etag(model, etag)
        if model.previous is None:
            raise RpcError(
                code_pb2.FAILED_PRECONDITION,
                "NO_PREVIOUS_VERSION",
                f"{model.name} has no version to go back to",
                metadata={"model": model.name},
            )
        return await self.activate(name, model.previous, etag)

    async def _activate(
        self, model: ModelEntry, served: ModelVersion, expected_versions: tuple[str | None, str | None] | None
    ) -> None:
        unload_due = served.unload_due
        try:
            await self._ensure_loaded(served)
            async with self._changing:
                if expected_versions is not None and expected_versions != (model.active, model.previous):
                    raise _etag_mismatch(model)
                if served.state is not VersionState.SERVING or served.version not in model.versions:
                    raise _changed_meanwhile(served)
                await self._switch_active(model, served)
        except BaseException:
            served.unload_due = unload_due
            raise

    async def _switch_active(self, model: ModelEntry, served: ModelVersion) -> None:
        if model.active == served.version:
            return
        before = model.active_version
        row = model_row(model, active=served.version, previous=model.active)
        rows = [version_row(served, loaded=True)]
        if before is not None:
            rows.append(version_row(before, loaded=False))
        await asyncio.to_thread(self._store.put, row, *rows)
        model.activate(served.version)
        served.unload_due = None
        if before is not None and before.engine is not None:
            self._schedule_unload(before)
        self._pool.changed()
        self._say(f"{model.name}: version {served.version} answers, before it {model.previous or 'none'}")

    def _schedule_unload(self, version: ModelVersion) -> None:
        """Keep a version that was replaced for a while, or only until its requests have ended."""
        scarce = self._available_memory(0).scarce
        version.unload_due = time.monotonic() + (0 if scarce else self._retention.keep_seconds)

    # Leaving

    async def unload(self, name: str, version: str, etag: str = "", force: bool = False) -> ModelEntry:
        """Let a version finish its requests, then free its memory.

        Raises:
            RpcError: NOT_FOUND; FAILED_PRECONDITION if it is active and this is not forced; ABORTED.
        """
        model, served = self._model(name), self.version(name, version)
        require_etag(model, etag)
        await self._run_once(("unload", model.name, version), lambda: self._unload(model, served, force))
        return model

    async def delete(self, name: str, version: str, etag: str = "", force: bool = False) -> None:
        """Unload a version and forget it; a model without versions, and its aliases, too.

        Raises:
            RpcError: as `unload`.
        """
        model, served = self._model(name), self.version(name, version)
        require_etag(model, etag)
        await self._run_once(("delete", model.name, version), lambda: self._delete(model, served, force))

    async def _unload(self, model: ModelEntry, served: ModelVersion, force: bool) -> None:
        self._require_idle_or_force(model, served, force)
        async with served.lock:
            async with self._changing:
                self._require_idle_or_force(model, served, force)
                await asyncio.to_thread(self._store.set_loaded, model.name, served.version, False)
                served.unload_due = None
                served.become(VersionState.DRAINING if served.engine is not None else VersionState.UNLOADED)
            await drain(served, self._retention.drain_seconds)
            engine = served.without_engine(VersionState.UNLOADED)
            if engine is not None:
                await engine.shutdown()
                self._say(f"{model.name} version {served.version} unloaded")

    def _require_idle_or_force(self, model: ModelEntry, served: ModelVersion, force: bool) -> None:
        if model.active == served.version and not force:
            raise RpcError(
                code_pb2.FAILED_PRECONDITION,
                "VERSION_ACTIVE",
                f"{model.name} version {served.version} is active: activate another, or say force",
                metadata={"model": model.name, "version": served.version},
            )

    async def _delete(self, model: ModelEntry, served: ModelVersion, force: bool) -> None:
        await self._unload(model, served, force)
        async with served.lock, self._changing:
            if served.version not in model.versions:
                return
            if served.state is not VersionState.UNLOADED:
                raise _changed_meanwhile(served)
            if list(model.versions) == [served.version]:
                await asyncio.to_thread(self._store.forget_model, model.name)
                del self._pool.models[model.name]
                aliases = self._pool.aliases
                self._pool.aliases = {alias: to for alias, to in aliases.items() if to != model.name}
            else:
                without = {"active": model.active, "previous": model.previous}
                without = {key: None if at == served.version else at for key, at in without.items()}
                row = model_row(model, **without)
                await asyncio.to_thread(self._store.forget_version, row, served.version)
                model.active, model.previous = row.active, row.previous
            del model.versions[served.version]
        self._pool.changed()

    # Aliases

    async def set_alias(self, alias: str, name: str) -> ModelEntry:
        """Make a name stand for a model.

        Raises:
            RpcError: INVALID_ARGUMENT, NOT_FOUND, or ALREADY_EXISTS if it is the name of a model.
        """
        if not MODEL_NAME.fullmatch(alias):
            raise invalid_argument(FieldViolation("alias", f"got {alias[:100]!r}, {_NAMES}"))
        if not name:
            raise invalid_argument(FieldViolation("model", "got none, the name of a model"))
        async with self._changing:
            model = self._model(name)
            if alias in self._pool.models:
                raise RpcError(
                    code_pb2.ALREADY_EXISTS, "NAME_TAKEN", f"alias: {alias} is the name of a model"
                )
            await asyncio.to_thread(self._store.put_alias, alias, model.name)
            self._pool.aliases[alias] = model.name
        return model

    async def delete_alias(self, alias: str) -> None:
        """Forget an alias.

        Raises:
            RpcError: NOT_FOUND.
        """
        async with self._changing:
            if alias not in self._pool.aliases:
                known_aliases = ", ".join(sorted(self._pool.aliases)) or "none"
                message = f"no alias {alias[:100]!r}; there are: {known_aliases}"
                raise RpcError(
                    code_pb2.NOT_FOUND, "ALIAS_NOT_FOUND", message, metadata={"alias": alias[:100]}
                )
            await asyncio.to_thread(self._store.forget_alias, alias)
            del self._pool.aliases[alias]

    # What they have in common

    async def close(self) -> None:
        """Give up what is going on; for the end of the server."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _require_open(self) -> None:
        if self._pool.closing:
            raise unavailable("SHUTTING_DOWN", "the server is shutting down")
        if not self._opened:
            raise unavailable("MODEL_LOADING", "the server is still loading", LOADING_RETRY_SECONDS)

    def _name_for(self, name: str) -> str:
        """Return the name of the model that is meant, which may be a new one."""
        self._require_open()
        if not MODEL_NAME.fullmatch(name):
            raise invalid_argument(FieldViolation("name", f"got {name[:100]!r}, {_NAMES}"))
        return self._pool.aliases.get(name, name)

    def _model(self, name: str) -> ModelEntry:
        self._require_open()
        if not name:
            raise invalid_argument(FieldViolation("name", "got none, the name of a model"))
        return self._pool.model(name)

    def version(self, name: str, version: str) -> ModelVersion:
        """Return a version that is named.

        Raises:
            RpcError: INVALID_ARGUMENT without a name or version; NOT_FOUND.
        """
        model = self._model(name)
        if not version:
            raise invalid_argument(
                FieldViolation("version", f"got none, one of: {', '.join(model.versions)}")
            )
        return model.find(version)

    def _version_of(self, name: str, checkpoint: Checkpoint) -> ModelVersion | None:
        versions = self._pool.models[name].versions.values() if name in self._pool.models else ()
        return next((one for one in versions if checkpoint.same(one.checkpoint)), None)

    def _memory_of(self, version: ModelVersion, memory: AvailableMemory) -> int:
        assert version.checkpoint is not None
        return memory.held(version.checkpoint, version.options or self._options)

    async def _run_once(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await work that goes on if we are cancelled; join what goes on under the same key."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        result: T = await asyncio.shield(task)
        return result

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._say(f"{' '.join(map(str, key if isinstance(key, tuple) else (key,)))}: {error}")


_NAMES = "letters, digits, '.', '_' and '-', at most 64"


async def drain(version: ModelVersion, seconds: float) -> None:
    """Wait until nobody uses a version's engine, then end what is left."""
    await wait_until(lambda: version.idle, seconds)
    if not version.idle and version.engine is not None:
        await version.engine.abort_all()
        await wait_until(lambda: version.idle, ABORT_SECONDS)


async def wait_until(
    holds: Callable[[], bool], seconds: float, interrupted: asyncio.Event | None = None
) -> None:
    """Wait until something holds, for so many seconds at most, or until interrupted."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline and not (interrupted and interrupted.is_set()):
        await asyncio.sleep(POLL_SECONDS)


def model_row(model: ModelEntry, **changes: str | None) -> ModelRow:
    """Return a model as it is remembered, with changes."""
    facts = {"active": model.active, "previous": model.previous, **changes}
    return ModelRow(name=model.name, numbered=model.numbered, given=model.given, **facts)


def version_row(version: ModelVersion, loaded: bool) -> VersionRow:
    """Return a version as it is remembered."""
    assert version.checkpoint is not None
    return VersionRow(
        model=version.name,
        version=version.version,
        folder=str(version.checkpoint.folder),
        fingerprint=version.checkpoint.fingerprint,
        loaded=loaded,
        created_at=version.created_at,
    )


def require_etag(model: ModelEntry, etag: str) -> None:
    """Raise `RpcError` if an etag is given and is no longer the model's."""
    if etag and etag != etag_of(model):
        raise _etag_mismatch(model)


def _etag_mismatch(model: ModelEntry) -> RpcError:
    return RpcError(
        code_pb2.ABORTED,
        "ETAG_MISMATCH",
        f"{model.name} was changed meanwhile: get it again",
        metadata={"model": model.name, "etag": etag_of(model)},
    )


def _changed_meanwhile(version: ModelVersion) -> RpcError:
    return RpcError(
        code_pb2.ABORTED,
        "CHANGED_MEANWHILE",
        f"{version.name} version {version.version} was changed by another call meanwhile: try again",
        metadata={"model": version.name, "version": version.version},
    )
