"""`secateur bench`: how fast a server's models are, under which load, and what that costs in quality."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from secateur.cli.console import emit_json, print_status, print_table, stdout_to_stderr
from secateur.cli.interrupts import INTERRUPTED, exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.bench import BenchOptions
from secateur.config.connection import ConnectionOptions
from secateur.config.values import from_given

if TYPE_CHECKING:
    from secateur.bench.load.journal import BenchmarkLog


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(bench)


@takes_options(BenchOptions)
@takes_options(
    ConnectionOptions, only=lambda d: d.name not in ("target", "wait_for_ready"), argument="connection"
)
def bench(given: Given, json: Json = False, *, connection: Given) -> None:
    """Measure the latency and throughput of a running server, or compare models that it serves.

    Example: secateur bench --model dense --compare slim --concurrency 1,4,16 --seconds 30
    Example: secateur bench --rate 2,4,8 --slo ttft=500ms,tpot=50ms --out bench-slim
    Example: secateur bench --offline out/dense --offline out/slim --batch 1,8,32
    """
    with stdout_to_stderr():
        options = from_given(BenchOptions, given)
        document = _offline(options) if options.offline else _online(options, connection)
    if json:
        emit_json(document)
    benchmark = document.get("benchmark", {})
    if benchmark.get("interrupted"):
        raise typer.Exit(INTERRUPTED)
    if benchmark.get("gave_up"):
        raise typer.Exit(1)


def _online(options: BenchOptions, connection: Given) -> dict[str, Any]:
    """Measure a server, or read what was measured, and report on it."""
    with exit_on_interrupt_during_import():
        from secateur.bench.document import benchmark_document
        from secateur.bench.load.journal import read_journal
        from secateur.bench.output import output_folder, write_report
        from secateur.report.bench_tables import bench_tables

    if options.records is not None:
        log = read_journal(options.records)
        folder = output_folder(options.out) if options.out is not None else None
    else:
        folder = output_folder(options.out)
        log = _measure(options, connection, folder)
    document = benchmark_document(log)
    if folder is not None:
        write_report(folder, log)  # first: what is printed may go to somebody who left
    for table in bench_tables(document):
        print_table(table)
    if folder is not None:
        print_status(f"records, report.json and report.html are in {folder}")
    return document


def _measure(options: BenchOptions, connection: Given, folder: Path) -> BenchmarkLog:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with exit_on_interrupt_during_import():
        from secateur.bench.output import RECORDS
        from secateur.bench.run import interruptible, run
        from secateur.client.endpoint import Endpoint

    access = Endpoint(**connection)
    with StageReporter() as reporter:
        return asyncio.run(interruptible(lambda stop: run(options, access, folder / RECORDS, reporter, stop)))


def _offline(options: BenchOptions) -> dict[str, Any]:
    """Time checkpoints in the engine, beside what the machine can do."""
    with exit_on_interrupt_during_import():
        from secateur.bench.offline.meter import measure
        from secateur.report.offline_tables import offline_tables
        from secateur.storage import check_new_path, write_json

    if options.out is not None:
        check_new_path("out", options.out)
    with StageReporter() as reporter:
        document = measure(options, reporter)
    for table in offline_tables(document):
        print_table(table)
    if options.out is not None:
        options.out.mkdir(parents=True)
        write_json(options.out / "report.json", document)
        print_status(f"report.json is in {options.out}")
    return document
