"""The dense model of a slim checkpoint: the one that is named, or the one that its record tells of."""

from __future__ import annotations

import json
from pathlib import Path

from secateur.checkpoint.export import RECORD
from secateur.checkpoint.source import ModelSource, open_source
from secateur.errors import BadInput, SecateurError
from secateur.progress import ProgressReporter


def find_dense_model(
    source: ModelSource, named: str | None, reporter: ProgressReporter, *, drop_extra_tokens: bool = False
) -> ModelSource | None:
    """The dense model; None where none is named and the recorded one is not there any more, which is said.

    Args:
        source: the slim checkpoint.
        named: what the user says it is; None takes what is recorded.

    Raises:
        BadInput: the one that is named cannot be opened.
    """
    if named is not None:
        try:
            return open_source(named, drop_extra_tokens)
        except BadInput as error:
            raise BadInput("dense", error.given, error.allowed) from error
    record_file = source.path / RECORD if source.kind == "folder" else None
    if record_file is None or not record_file.is_file():
        return None
    recorded = _recorded_model(record_file)
    if recorded is None:
        reporter.message(f"{RECORD} does not say which the dense model is; name it with `dense`")
        return None
    dropped = recorded["drop_extra_tokens"] == "True"
    for candidate_reference in (recorded["path"], recorded["reference"]):
        if not Path(candidate_reference).exists() and candidate_reference == recorded["path"]:
            continue
        try:
            dense_source = open_source(candidate_reference, dropped or drop_extra_tokens)
        except SecateurError:
            continue
        if dense_source.fingerprint == recorded["fingerprint"]:
            return dense_source
    reporter.message(f"the dense model ({recorded['reference']}) is not where it was; name it with `dense`")
    return None


def _recorded_model(record_file: Path) -> dict[str, str] | None:
    """Where the dense model was; None when the record cannot be read."""
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
        model = {**record["model"], "drop_extra_tokens": record.get("options", {}).get("drop_extra_tokens")}
        return {key: str(model[key]) for key in ("path", "reference", "fingerprint", "drop_extra_tokens")}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
