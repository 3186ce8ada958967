"""The options that a study was made with, for cutting from it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from secateur.errors import BadInput
from secateur.prune.options import PruneOptions
from secateur.space.budget import LATENCY
from secateur.study.storage import is_database_url
from secateur.study.view import view_study


def options_of(
    study: str,
    out: Path,
    keep: float | None = None,
    budget: str | None = None,
    speedup: float | None = None,
) -> PruneOptions:
    """What `pipeline.cut_from_study` asks for.

    Args:
        study: a folder or the URL of a database.
        out: the checkpoint folder to make.
        keep, budget, speedup: as in `PruneOptions`.

    Raises:
        BadInput: there is no study, it does not say its options, or a budget that makes no sense.
    """
    noted = view_study(study).about.get("options")
    if noted is None:
        raise BadInput("STUDY", study, "does not say how it was made (an older version made it)")
    known = {field.name for field in fields(PruneOptions)}
    kept = {name: value for name, value in noted.items() if name in known}
    if kept.get("latency_table") is not None:
        wanted = speedup is not None or LATENCY in (budget or "")
        kept["latency_table"] = Path(kept["latency_table"]) if wanted else None
    place = study if is_database_url(study) else Path(study)
    return PruneOptions(**kept, out=out, keep=keep, budget=budget, speedup=speedup, study=place)
