"""The start of a server: find out what to serve, start all engines side by side, remember it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from secateur.config.serve import EngineOptions, ServeOptions
from secateur.errors import BrokenCheckpoint
from secateur.serve.engine.engine import import_vllm
from secateur.serve.engine.environment import on_cpu, set_engine_environment
from secateur.serve.engine.memory import kv_cache_bytes
from secateur.serve.engine.threads import in_thread
from secateur.serve.failures import RpcError
from secateur.serve.models.checkpoint import Checkpoint, read_checkpoint
from secateur.serve.models.deployments import model_row, version_row
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.pool import ModelPool
from secateur.serve.models.restore import restore_pool
from secateur.serve.models.tables import ModelStore, StoredModels
from secateur.serve.models.version import ModelVersion, VersionState

StatusCallback = Callable[[str], None]


async def start_up(
    options: ServeOptions, pool: ModelPool, store: ModelStore, loader: EngineLoader, say: StatusCallback
) -> None:
    """Load everything that is to be served.

    A version that was remembered and cannot be loaded any more stays out, FAILED; the server starts.

    Raises:
        SecateurError: a checkpoint of the command line cannot be loaded.
    """
    before = await in_thread(store.read)
    checkpoints = {
        name: await in_thread(read_checkpoint, folder.resolve()) for name, folder in options.models.items()
    }
    to_load = restore_pool(pool, before, checkpoints)
    pool.opening = False
    set_engine_environment(options.engine, len(to_load))
    # First and alone: importing, and loading plugins, are not made for two threads at once.
    await in_thread(import_vllm)
    how = _share_memory(options.engine, len(to_load))
    await asyncio.gather(*(_start(loader, one, how, len(to_load), checkpoints, say) for one in to_load))
    await in_thread(store.write, snapshot_rows(pool, to_load))


def _share_memory(options: EngineOptions, num_engines: int) -> EngineOptions:
    """Share the memory out before the first engine takes some of it."""
    if options.kv_cache_bytes is None and on_cpu():
        return replace(options, kv_cache_bytes=kv_cache_bytes(num_engines))
    return options


async def _start(
    loader: EngineLoader,
    version: ModelVersion,
    options: EngineOptions,
    num_engines: int,
    checkpoints: Mapping[str, Checkpoint],
    say: StatusCallback,
) -> None:
    assert version.checkpoint is not None
    is_given = version.checkpoint.same(checkpoints.get(version.name))
    version.become(VersionState.LOADING)
    try:
        async with version.lock:
            if not is_given:
                await loader.verify(version)
            await loader.start(version, options, num_engines)
    except RpcError as refusal:
        if is_given:
            argument = f"{version.name}={version.checkpoint.folder}"
            raise BrokenCheckpoint("models", argument, refusal.message) from refusal
        version.become(VersionState.FAILED, refusal.message)
        say(f"{version.name} version {version.version} stays out: {refusal.message}")


def snapshot_rows(pool: ModelPool, loaded_versions: Sequence[ModelVersion]) -> StoredModels:
    """Return what is to be remembered of a pool."""
    return StoredModels(
        [model_row(model) for model in pool.models.values()],
        {
            name: [version_row(one, loaded=one in loaded_versions) for one in model.versions.values()]
            for name, model in pool.models.items()
        },
        dict(pool.aliases),
    )
