"""The start of a server: find out what to serve, start all engines side by side, remember it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from secateur.config.serve import EngineOptions, ServeOptions
from secateur.errors import BadInput, BrokenCheckpoint
from secateur.serve.engine.engine import import_vllm
from secateur.serve.engine.environment import on_cpu, set_engine_environment
from secateur.serve.engine.threads import in_thread
from secateur.serve.failures import RpcError
from secateur.serve.models.checkpoint import Checkpoint, checkpoint_from_row, read_checkpoint
from secateur.serve.models.deployments import model_row, version_row
from secateur.serve.models.loader import EngineLoader
from secateur.serve.models.plan import AvailableMemory, MemoryPlan, plan_start
from secateur.serve.models.pool import ModelEntry, ModelPool
from secateur.serve.models.tables import ModelRow, ModelStore, StoredModels, VersionRow
from secateur.serve.models.version import ModelVersion, VersionState

StatusCallback = Callable[[str], None]


async def start_up(
    options: ServeOptions, pool: ModelPool, store: ModelStore, loader: EngineLoader, say: StatusCallback
) -> None:
    """Load everything that is to be served.

    A version that was remembered and cannot be loaded now stays out, FAILED, until the watchdog has it
    back; the server starts.

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
    plans = await in_thread(_share_memory, options.engine, to_load)
    starts = (
        _start(loader, one, plan.applied_to(options.engine), len(to_load), checkpoints, say)
        for one, plan in zip(to_load, plans, strict=True)
    )
    await asyncio.gather(*starts)
    if plans and not on_cpu():
        now = await in_thread(AvailableMemory.now, len(plans), options.engine.ranks)
        say(f"engines {now.taken_since(plans[0].available, sum(plan.needed for plan in plans))}")
    await in_thread(store.write, snapshot_rows(pool, to_load))


def _share_memory(options: EngineOptions, versions: Sequence[ModelVersion]) -> list[MemoryPlan]:
    """Share the memory out before the first engine takes some of it: a plan for each version.

    Raises:
        BadInput: a GPU has not enough of it.
    """
    checkpoints = [version.checkpoint for version in versions if version.checkpoint is not None]
    plans = plan_start(checkpoints, options, AvailableMemory.now(0, options.ranks))
    if not on_cpu() and not all(plan.fits for plan in plans):
        needed = sum(plan.needed for plan in plans)
        allowed = f"need {needed:,} bytes of GPU memory, {plans[0].available:,} are free"
        raise BadInput("models", ", ".join(map(str, versions)), allowed)
    return plans


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
    version.options = options
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


def restore_pool(
    pool: ModelPool, remembered: StoredModels, command_line_checkpoints: Mapping[str, Checkpoint]
) -> list[ModelVersion]:
    """Fill a pool, and return the versions that are to be loaded.

    - What was made through the API is there again, and what was loaded through it is to be loaded.
    - A model of the command line that is given the same checkpoint as last time goes on where it was,
      whatever has been activated since. Given another, that is its active version.
    - Models of an earlier command line that are not given any more are forgotten.

    Args:
        pool: empty.
        remembered: what the database says.
        command_line_checkpoints: models of the command line.
    """
    to_load: list[ModelVersion] = []
    for row in remembered.models:
        if row.given and row.name not in command_line_checkpoints:
            continue
        model = pool.models[row.name] = _model(row)
        for version in remembered.versions.get(row.name, ()):
            served = _version(pool, model, version)
            if version.loaded:
                to_load.append(served)
    for name, checkpoint in command_line_checkpoints.items():
        _apply_command_line(pool, pool.models.setdefault(name, ModelEntry(name)), checkpoint)
    for alias, name in remembered.aliases.items():
        if name in pool.models and alias not in pool.models:
            pool.aliases[alias] = name
    active = [model.active_version for model in pool.models.values() if model.active_version is not None]
    present = set(pool)
    to_load = list(dict.fromkeys([*active, *(one for one in to_load if one in present)]))
    for one in to_load:
        # From now on: until its turn comes, callers must be told that it is loading, not that it is unloaded.
        one.become(VersionState.LOADING)
    return to_load


def _model(row: ModelRow) -> ModelEntry:
    return ModelEntry(row.name, {}, row.active, row.previous, row.numbered, row.given)


def _version(pool: ModelPool, model: ModelEntry, row: VersionRow) -> ModelVersion:
    served = pool.add_version(model, row.version)
    served.checkpoint = checkpoint_from_row(Path(row.folder), row.fingerprint)
    served.created_at = row.created_at
    served.become(VersionState.UNLOADED)
    return served


def _apply_command_line(pool: ModelPool, model: ModelEntry, checkpoint: Checkpoint) -> None:
    """Let the command line have its way."""
    mark = f"{checkpoint.fingerprint} {checkpoint.folder}"
    for served in list(model.versions.values()):
        known_checkpoint = served.checkpoint
        if (
            known_checkpoint is not None
            and known_checkpoint.folder == checkpoint.folder
            and not checkpoint.same(known_checkpoint)
        ):
            _drop(model, served)  # overwritten: nothing can load it any more
    if model.given == mark and model.active is not None:
        return
    same = [one for one in model.versions.values() if checkpoint.same(one.checkpoint)]
    served = same[0] if same else pool.add_version(model)
    served.checkpoint = checkpoint
    model.activate(served.version)
    model.given = mark


def _drop(model: ModelEntry, served: ModelVersion) -> None:
    del model.versions[served.version]
    if model.active == served.version:
        model.active = None
    if model.previous == served.version:
        model.previous = None
