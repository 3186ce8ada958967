"""Prune, then recover: one command, whose checkpoints appear once they are recovered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.config.prune import PruneOptions
from secateur.config.recover import RecoverOptions
from secateur.progress import ProgressReporter
from secateur.prune.checks import check_places
from secateur.recover.pipeline import recover

Prune = Callable[[PruneOptions], Any]


def prune_and_recover(
    options: PruneOptions, prune: Prune, reporter: ProgressReporter
) -> list[dict[str, Any]]:
    """Prune to ``OUT.cut``, recover every checkpoint from there to its place, and remove what was only cut.

    What a killed run has done is not done again.

    Args:
        options: with `recover`, the minutes for each checkpoint.
        prune: prunes as its options say.

    Returns:
        The records of the recovered checkpoints, in the order of the budgets.

    Raises:
        SecateurError: as `prune` and `recover`.
    """
    steps = [
        RecoverOptions(
            model=str(cut),
            out=out,
            minutes=options.recover,
            corpus=options.corpus,
            validation=options.validation,
            window=options.window,
            seed=options.seed,
            device=options.device,
        )
        for cut, out in zip(_to_cut(options).outs, options.outs, strict=True)
    ]
    check_places(options)
    if not all(Path(step.model).is_dir() for step in steps):
        prune(_to_cut(options))
    records = [recover(step, reporter) for step in steps]
    shutil.rmtree(_to_cut(options).out, ignore_errors=True)
    return records


def _to_cut(options: PruneOptions) -> PruneOptions:
    """The options of the pruning alone; its study is where it would be anyway."""
    folder = options.out.with_name(f"{options.out.name}.cut")
    return replace(options, out=folder, study=options.study_url, recover=None)
