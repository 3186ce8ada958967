"""Keeps engines running: starts those again that die or failed, and unloads versions whose time is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from secateur.serve.engine.engine import Engine
from secateur.serve.failures import RpcError, to_rpc_error
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.pool import ModelPool
from secateur.serve.models.version import LOADING_RETRY_SECONDS, ModelVersion, VersionState

INITIAL_SECONDS, MAX_SECONDS = 1.0, 30.0
# 1, 2, 4, 8, 16, 30, 30: a minute and a half for a folder that is away, or for memory that others hold.
MAX_FAILURES = 8
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 60.0, 900.0
CALM_SECONDS = 600.0


class Backoff:
    """Doubles the wait with every failure; after some failures waits are pauses, which grow as well.

    Args:
        failures: from this one on it pauses.
        calm: seconds without a failure, after a wait, that make the next one the first again.
    """

    def __init__(self, failures: int = MAX_FAILURES, calm: float = CALM_SECONDS) -> None:
        self._most = failures
        self._calm = calm
        self._failures = 0
        self._forgotten_at = float("-inf")

    @property
    def pausing(self) -> bool:
        """True once it failed too often to be about to come back."""
        return self._failures >= self._most

    def failed(self, now: float) -> float:
        """Count a failure; return the seconds to wait before trying again.

        Args:
            now: a time in seconds that only grows.
        """
        self._failures = 1 if now >= self._forgotten_at else self._failures + 1
        if self.pausing:
            wait = min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2.0 ** (self._failures - self._most))
        else:
            wait = min(MAX_SECONDS, INITIAL_SECONDS * 2.0 ** (self._failures - 1))
        self._forgotten_at = now + wait + self._calm
        return wait


WATCH_SECONDS = 0.1
UNLOAD_RETRY_SECONDS = 60.0
BROKEN = (VersionState.RESTARTING, VersionState.FAILED)


class EngineWatchdog:
    """Watches every version of a pool.

    Args:
        pool: what is served.
        deployments: unloads versions.
        loader: starts engines.
        say: takes lines for people.
        backoff: makes what decides when an engine is tried again.
    """

    def __init__(
        self,
        pool: ModelPool,
        deployments: DeploymentManager,
        loader: EngineLoader,
        say: Callable[[str], None],
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._pool = pool
        self._deployments = deployments
        self._loader = loader
        self._say = say
        self._new_backoff = backoff
        self._backoffs: WeakKeyDictionary[ModelVersion, Backoff] = WeakKeyDictionary()
        self._repairing: set[ModelVersion] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                for version in list(self._pool):
                    self._check(version)
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()

    def _check(self, version: ModelVersion) -> None:
        engine = version.engine
        if (
            engine is not None
            and engine.dead
            and version.state in (VersionState.SERVING, VersionState.RESTARTING)
        ):
            version.suspects.engine_died()
            version.without_engine(VersionState.RESTARTING, "its engine died")
            self._start_task(self._bury(version, engine))
        elif version.state is VersionState.FAILED and version not in self._repairing:
            self._start_task(self._repair(version, version.reason))
        elif version.unload_due is not None and time.monotonic() >= version.unload_due:
            version.unload_due = None
            self._start_task(self._unload(version))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unload(self, version: ModelVersion) -> None:
        try:
            await self._deployments.unload(version.name, version.version)
        except RpcError as refusal:  # it became active again, or is gone
            self._say(f"{version.name} version {version.version} stays loaded: {refusal.message}")
        except Exception as error:
            version.unload_due = time.monotonic() + UNLOAD_RETRY_SECONDS
            self._say(f"{version.name} version {version.version} stays loaded: {to_rpc_error(error).message}")

    async def _bury(self, version: ModelVersion, dead: Engine) -> None:
        await dead.shutdown()
        await self._repair(version, version.reason, dead.load_seconds)

    async def _repair(
        self, version: ModelVersion, reason: str, load_seconds: float = LOADING_RETRY_SECONDS
    ) -> None:
        """Try to start the engine until it serves, or somebody wants something else."""
        if version in self._repairing:
            return
        self._repairing.add(version)
        backoff = self._backoffs.setdefault(version, self._new_backoff())
        try:
            while version.state in BROKEN:
                delay = backoff.failed(time.monotonic())
                self._say(
                    f"{version.name} version {version.version}: {reason}; starting again in {delay:g} s"
                )
                version.retry_seconds = delay + load_seconds
                if backoff.pausing:
                    reason = f"{reason}; it failed too often, the next try is in {delay:g} s"
                version.become(VersionState.FAILED if backoff.pausing else VersionState.RESTARTING, reason)
                await asyncio.sleep(delay)
                reason = await self._restart(version)
        finally:
            self._repairing.discard(version)

    async def _restart(self, version: ModelVersion) -> str:
        """Start the engine again; return what went wrong, if something did."""
        async with version.lock:
            if version.state not in BROKEN:  # unloaded, or loaded by somebody
                return ""
            assert version.options is not None
            num_engines = 1 + sum(one.engine is not None for one in self._pool)
            try:
                await self._loader.verify(version)
                await self._loader.start(version, version.options, num_engines)
            except RpcError as refusal:
                return refusal.message
            except Exception as error:  # a bug must not leave it restarting for ever
                return f"{type(error).__name__}: {error}"
            return ""
