"""`secateur recover`: a slim checkpoint learns from its dense model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from secateur.cli.checkpoints import summarise_recovery
from secateur.cli.console import duration, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.recover import RecoverOptions
from secateur.config.values import from_given
from secateur.recover.checks import check_before_start
from secateur.threads import passive_waiting


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(recover)


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what memory and time it will take, and train nothing.")
]


@takes_options(RecoverOptions, config=True)
def recover(given: Given, dry_run: DryRun = False, json: Json = False) -> None:
    """Win back what cutting cost: train a slim checkpoint to answer as its dense model does.

    An interrupted run goes on where it was when started again with the same options.

    Example: secateur recover slim --minutes 10 --corpus chats.jsonl,self --out recovered
    """
    with stdout_to_stderr():
        options = from_given(RecoverOptions, given)
        check_before_start(options)
        document = _plan(options) if dry_run else _recover(options)
    if json:
        emit_json(document)


def _recover(options: RecoverOptions) -> dict[str, Any]:
    with passive_waiting(), exit_on_interrupt_during_import():
        from secateur.recover.pipeline import recover as run

    try:
        with StageReporter() as reporter:
            record = run(options, reporter)
    except KeyboardInterrupt:
        print_status("run the same command again to go on from the last state that was kept")
        raise
    summarise_recovery(record)
    print_status(f"{record['out']} ({record['layout']}) written")
    return record


def _plan(options: RecoverOptions) -> dict[str, Any]:
    with exit_on_interrupt_during_import():
        from secateur.recover.pipeline import plan_for
    with StageReporter() as reporter:
        document = dict(plan_for(options, reporter))
    print_status(
        f"memory {document['memory'] / 1e9:.1f} GB, disk {document['disk'] / 1e9:.2f} GB, "
        f"{document['numbers']:,} numbers learn"
    )
    print_status(
        f"about {duration(document['seconds'])} for {document['tokens']:,} tokens "
        f"({document['tokens_per_second']:,.0f} tokens/s), beside opening, text and export"
    )
    return document
