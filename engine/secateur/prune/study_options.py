"""The options that a study was made with, for cutting from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.config.prune import LATENCY, PruneOptions
from secateur.config.values import from_json
from secateur.errors import BadInput
from secateur.study.view import view_study


def options_of(study: str, given: Mapping[str, Any]) -> PruneOptions:
    """What `pipeline.cut_from_study` asks for.

    Args:
        study: a folder or the URL of a database.
        given: the checkpoint folder to make (`out`), and the budget; as `PruneOptions` declares them.

    Raises:
        BadInput: there is no study, it does not say its options, or a budget that makes no sense.
    """
    recorded = view_study(study).about.get("options")
    if recorded is None:
        raise BadInput("study", study, "does not say how it was made (an older version made it)")
    recorded = dict(recorded)
    if given.get("speedup") is None and LATENCY not in given.get("budget", ""):
        recorded.pop("latency_table", None)
    return from_json(PruneOptions, {**recorded, **given, "study": study})
