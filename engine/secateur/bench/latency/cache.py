"""Tables measured before, in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from secateur.space.costs.latency import LatencyConditions, LatencyTable
from secateur.storage import os_errors_as_output_failed, write_json


def load_cached_table(conditions: LatencyConditions) -> LatencyTable | None:
    """The table for exactly these conditions; None where there is none that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        table = LatencyTable.from_json(json.loads(table_path(conditions).read_text(encoding="utf-8")))
        return table if table.conditions == conditions else None
    return None


def store_table(table: LatencyTable) -> Path:
    """Write a table to its place; whole or not at all.

    Raises:
        OutputFailed: the cache folder cannot be written.
    """
    file = table_path(table.conditions)
    with os_errors_as_output_failed(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, table.to_json())
    return file


def table_path(conditions: LatencyConditions) -> Path:
    """Where the table for some conditions lies, ``$XDG_CACHE_HOME/secateur/latency/``."""
    home = os.environ.get("XDG_CACHE_HOME")
    folder = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
    identity = json.dumps(asdict(conditions), sort_keys=True).encode()
    digest = hashlib.blake2b(identity, digest_size=8).hexdigest()
    return folder / "secateur" / "latency" / f"{digest}.json"
