"""What a server serves at its start: what it remembers, and what its command line gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secateur.serve.models.checkpoint import Checkpoint, checkpoint_from_row
from secateur.serve.models.pool import ModelEntry, ModelPool
from secateur.serve.models.tables import ModelRow, StoredModels, VersionRow
from secateur.serve.models.version import ModelVersion, VersionState


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
