"""`secateur bench --offline`: the engine's own speed, beside what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.cli.console import print_status, print_table, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
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
        with exit_on_interrupt_during_import():
            from secateur.bench.offline.meter import measure
            from secateur.bench.offline.plan import ROUNDS, OfflinePlan, parse_batches, parse_folders
            from secateur.report.offline_tables import offline_tables
            from secateur.storage import check_new_path, write_json

        if out is not None:
            check_new_path("--out", out)
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
            print_table(table)
        if out is not None:
            out.mkdir(parents=True)
            write_json(out / "report.json", document)
            print_status(f"report.json is in {out}")
    return document
