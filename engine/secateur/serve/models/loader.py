"""From a version that is not in memory to one that may get requests, without holding up those that do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from google.rpc import code_pb2

from secateur.config.serve import EngineOptions
from secateur.errors import SecateurError
from secateur.serve.engine.check import check_engine
from secateur.serve.engine.engine import Engine, start_engine
from secateur.serve.engine.stats import EngineCheckResult
from secateur.serve.engine.threads import in_thread
from secateur.serve.failures import RpcError
from secateur.serve.models.checkpoint import checkpoint_error, error_reason, fingerprint
from secateur.serve.models.version import ModelVersion

StartEngine = Callable[[str, Path, EngineOptions, int], Engine]
CheckEngine = Callable[[Engine, Path], Awaitable[EngineCheckResult]]


class EngineLoader:
    """Starts engines.

    Args:
        say: takes lines for people.
        start: starts one; blocks.
        prove: checks one.
    """

    def __init__(
        self, say: Callable[[str], None], start: StartEngine = start_engine, prove: CheckEngine = check_engine
    ) -> None:
        self._say = say
        self._start = start
        self._prove = prove

    async def verify(self, version: ModelVersion) -> None:
        """Hash the checkpoint again, which must be what the version was made of.

        Raises:
            RpcError: FAILED_PRECONDITION: it is gone, damaged or another one.
        """
        assert version.checkpoint is not None
        folder = version.checkpoint.folder
        try:
            actual_fingerprint = await in_thread(fingerprint, folder)
        except (SecateurError, OSError) as error:
            raise checkpoint_error(folder, error_reason(error)) from error
        if actual_fingerprint != version.checkpoint.fingerprint:
            raise RpcError(
                code_pb2.FAILED_PRECONDITION,
                "CHECKPOINT_CHANGED",
                f"{folder} is no longer the checkpoint that {version} was made of; load it as a new version",
                metadata={"model": version.name, "version": version.version},
            )

    async def start(self, version: ModelVersion, options: EngineOptions, num_engines: int) -> None:
        """Start and check a version's engine, and let it serve.

        Args:
            version: it has a checkpoint and no engine.
            options: how to run it.
            num_engines: how many engines share the machine, this one included.

        Raises:
            RpcError: FAILED_PRECONDITION: its engine does not start, or is not fit to serve.
        """
        assert version.checkpoint is not None
        folder = version.checkpoint.folder
        try:
            engine = await in_thread(self._start, version.name, folder, options, num_engines)
        except SecateurError as error:
            raise RpcError(
                code_pb2.FAILED_PRECONDITION,
                "ENGINE_NOT_STARTED",
                f"{version} cannot be loaded: {error_reason(error)}",
                metadata={"model": version.name, "version": version.version},
            ) from error
        try:
            version.check = await self._prove(engine, folder)
        except BaseException:
            await engine.shutdown()
            raise
        version.options = options
        version.loaded(engine)
        self._say(
            f"{version.name} version {version.version} loaded in {engine.load_seconds:.1f} s, checked in "
            f"{version.check.seconds:.1f} s: {engine.architecture}, {engine.dtype}, "
            f"context {engine.max_model_len}, room for {engine.kv_cache_tokens} tokens"
        )
