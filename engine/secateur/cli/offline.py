"""`secateur bench --offline`: the engine's own speed, beside what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.cli.console import say, show, stdout_to_stderr
from secateur.cli.interrupts import importing
from secateur.cli.stages import StageReporter


def run_offline(
    folders: Sequence[str],
    batch: str,
    input_tokens: int,
    context: int,
    rounds: int | None,
    dtype: str,
    threads: int | None,
    out: Path | None,
) -> dict[str, Any]:
    """Time the checkpoints, print the tables, and return the document.

    Raises:
        BadInput: a folder is no checkpoint, or a number out of range.
        BackendUnavailable: vLLM is missing, or cannot run one of them.
    """
    with stdout_to_stderr():
        with importing():
            from secateur.bench.offline.meter import measure
            from secateur.bench.offline.plan import ROUNDS, OfflinePlan, parse_batches, parse_folders
            from secateur.report.offline_tables import offline_tables
            from secateur.storage import require_new, write_json

        if out is not None:
            require_new("--out", out)
        plan = OfflinePlan(
            folders=parse_folders(folders),
            batches=parse_batches(batch),
            input_tokens=input_tokens,
            context=context,
            rounds=ROUNDS if rounds is None else rounds,
            dtype=dtype,
            threads=threads,
        )
        with StageReporter() as reporter:
            document = measure(plan, reporter)
        for table in offline_tables(document):
            show(table)
        if out is not None:
            out.mkdir(parents=True)
            write_json(out / "report.json", document)
            say(f"report.json is in {out}")
    return document
