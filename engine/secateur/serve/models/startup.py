"""The start of a server: find out what to serve, start all engines side by side, remember it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from secateur.errors import BrokenCheckpoint
from secateur.serve.engine.engine import import_vllm
from secateur.serve.engine.environment import on_cpu, prepare
from secateur.serve.engine.memory import kv_cache_bytes
from secateur.serve.engine.threads import in_thread
from secateur.serve.failures import Refused
from secateur.serve.models.checkpoint import Checkpoint, read_checkpoint
from secateur.serve.models.deployments import model_row, version_row
from secateur.serve.models.loader import Loader
from secateur.serve.models.pool import Pool
from secateur.serve.models.restore import restore
from secateur.serve.models.tables import Remembered, Store
from secateur.serve.models.version import ServedModel, State
from secateur.serve.options import EngineOptions, ServeOptions

Say = Callable[[str], None]


async def start_up(options: ServeOptions, pool: Pool, store: Store, loader: Loader, say: Say) -> None:
    """Load everything that is to be served.

    A version that was remembered and cannot be loaded any more stays out, FAILED; the server starts.

    Raises:
        SecateurError: a checkpoint of the command line cannot be loaded.
    """
    before = await in_thread(store.read)
    given = {spec.name: await in_thread(read_checkpoint, spec.folder.resolve()) for spec in options.models}
    wanted = restore(pool, before, given)
    pool.opening = False
    prepare(options.engine, len(wanted))
    # First and alone: importing, and loading plugins, are not made for two threads at once.
    await in_thread(import_vllm)
    how = _shared(options.engine, len(wanted))
    await asyncio.gather(*(_start(loader, one, how, len(wanted), given, say) for one in wanted))
    await in_thread(store.write, remembered(pool, wanted))


def _shared(options: EngineOptions, engines: int) -> EngineOptions:
    """Share the memory out before the first engine takes some of it."""
    if options.kv_cache_bytes is None and on_cpu():
        return replace(options, kv_cache_bytes=kv_cache_bytes(engines))
    return options


async def _start(
    loader: Loader,
    version: ServedModel,
    options: EngineOptions,
    engines: int,
    given: Mapping[str, Checkpoint],
    say: Say,
) -> None:
    assert version.checkpoint is not None
    is_given = version.checkpoint.same(given.get(version.name))
    version.become(State.LOADING)
    try:
        async with version.lock:
            if not is_given:
                await loader.verify(version)
            await loader.start(version, options, engines)
    except Refused as refusal:
        if is_given:
            argument = f"{version.name}={version.checkpoint.folder}"
            raise BrokenCheckpoint("models", argument, refusal.message) from refusal
        version.become(State.FAILED, refusal.message)
        say(f"{version.name} version {version.version} stays out: {refusal.message}")


def remembered(pool: Pool, wanted: Sequence[ServedModel]) -> Remembered:
    """Return what is to be remembered of a pool."""
    return Remembered(
        [model_row(model) for model in pool.models.values()],
        {
            name: [version_row(one, loaded=one in wanted) for one in model.versions.values()]
            for name, model in pool.models.items()
        },
        dict(pool.aliases),
    )
