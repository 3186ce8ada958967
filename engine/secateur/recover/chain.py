"""Prune, then recover: one command, whose checkpoints appear once they are recovered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.checkpoint.export import RECORD
from secateur.config.prune import PruneOptions
from secateur.config.recover import RecoverOptions
from secateur.errors import BadInput
from secateur.progress import ProgressReporter
from secateur.prune.checks import check_places
from secateur.recover.pipeline import recover

Prune = Callable[[PruneOptions], Any]


def prune_and_recover(
    options: PruneOptions, prune: Prune, reporter: ProgressReporter
) -> list[dict[str, Any]]:
    """Prune to ``OUT.cut``, recover every checkpoint from there to its place, and remove what was only cut.

    What a killed run of the same options has evaluated and cut is used again.

    Args:
        options: with `recover`, the minutes for each checkpoint.
        prune: prunes as its options say.

    Returns:
        The records of the recovered checkpoints, in the order of the budgets.

    Raises:
        BadInput: ``OUT.cut`` is there from a run with other options.
        SecateurError: as `prune` and `recover`.
    """
    cut = _to_cut(options)
    steps = [
        RecoverOptions(
            model=str(folder),
            out=out,
            minutes=options.recover,
            corpus=options.corpus,
            validation=options.validation,
            window=options.window,
            seed=options.seed,
            device=options.device,
        )
        for folder, out in zip(cut.outs, options.outs, strict=True)
    ]
    check_places(options)
    if not _is_cut(cut):
        prune(cut)
    records = [recover(step, reporter) for step in steps]
    shutil.rmtree(cut.out, ignore_errors=True)
    return records


def _is_cut(cut: PruneOptions) -> bool:
    """Whether an earlier run with these options has cut all of it; what it cut in part is removed.

    Raises:
        BadInput: what lies there is of another run.
    """
    there = [pair for pair in zip(cut.outs, cut.limits, strict=True) if pair[0].exists()]
    if not all(_is_of(cut, *pair) for pair in there):
        raise BadInput("out", cut.out, "is there from a run with other options: remove it")
    if len(there) == len(cut.outs):
        return True
    for folder, _ in there:
        shutil.rmtree(folder)
    return False


def _is_of(cut: PruneOptions, folder: Path, limits: Mapping[str, float]) -> bool:
    """Whether a checkpoint was cut with these options, to these limits."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = {kind: limit["keep"] for kind, limit in record["budget"]["limits"].items()}
        return bool(found == limits and record["options"] == cut.for_study())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False


def _to_cut(options: PruneOptions) -> PruneOptions:
    """The options of the pruning alone; its study is where it would be anyway."""
    folder = options.out.with_name(f"{options.out.name}.cut")
    return replace(options, out=folder, study=options.study_url, recover=None)
