"""Keeps engines running: starts those again that die, and unloads versions whose time is over."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from secateur.serve.engine.engine import Engine
from secateur.serve.failures import RpcError
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.pool import ModelPool
from secateur.serve.models.version import ModelVersion, VersionState

INITIAL_SECONDS = 1.0
MAX_SECONDS = 30.0
MAX_FAILURES = 5
WINDOW_SECONDS = 600.0


class Backoff:
    """Doubles the wait with every failure within a window of time.

    Args:
        failures: at this many within the window it gives up.
        window: seconds after which a failure no longer counts.
    """

    def __init__(self, failures: int = MAX_FAILURES, window: float = WINDOW_SECONDS) -> None:
        self._most = failures
        self._window = window
        self._failures: deque[float] = deque()

    def failed(self, now: float) -> float | None:
        """Count a failure; return the seconds to wait before trying again, None to give up.

        Args:
            now: a time in seconds that only grows.
        """
        self._failures.append(now)
        while self._failures[0] <= now - self._window:
            self._failures.popleft()
        if len(self._failures) >= self._most:
            return None
        return min(MAX_SECONDS, INITIAL_SECONDS * 2.0 ** (len(self._failures) - 1))


WATCH_SECONDS = 0.1


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
            version.without_engine(VersionState.RESTARTING, "its engine died")
            self._start_task(self._restart_dead(version, engine))
        elif version.unload_at is not None and time.time() >= version.unload_at:
            version.unload_at = None
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

    async def _restart_dead(self, version: ModelVersion, dead: Engine) -> None:
        backoff = self._backoffs.setdefault(version, self._new_backoff())
        reason = "its engine died"
        await dead.shutdown()
        while version.state is VersionState.RESTARTING:
            delay = backoff.failed(time.monotonic())
            if delay is None:
                del self._backoffs[version]
                self._say(f"{version.name} version {version.version} failed: {reason}; given up")
                version.become(VersionState.FAILED, f"{reason}; given up after it failed too often")
                return
            self._say(f"{version.name} version {version.version}: {reason}; starting again in {delay:g} s")
            version.retry_seconds = delay + dead.load_seconds
            version.become(VersionState.RESTARTING, reason)
            await asyncio.sleep(delay)
            reason = await self._restart(version)

    async def _restart(self, version: ModelVersion) -> str:
        """Start the engine again; return what went wrong, if something did."""
        async with version.lock:
            if version.state is not VersionState.RESTARTING:  # unloaded, or loaded by somebody
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
