"""`secateur evaluate`: perplexity of a model, the dense one beside a slim one."""

from __future__ import annotations

from typing import Any

import typer
from rich.table import Table

from secateur.cli.console import console, emit_json, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.evaluate import EvaluateOptions
from secateur.config.values import from_given
from secateur.evaluation.checks import check_before_start
from secateur.threads import passive_waiting


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(evaluate)


@takes_options(EvaluateOptions)
def evaluate(given: Given, json: Json = False) -> None:
    """Measure perplexity on text and accuracy on tasks; for a slim model, of its dense model too.

    Example: secateur evaluate slim --corpus pydoc:test --window 256 --windows 128
    Example: secateur evaluate slim --tasks cloze:pydoc:test,ending:pydoc:test
    Example: secateur evaluate slim --instructions 200
    """
    with stdout_to_stderr():
        options = from_given(EvaluateOptions, given)
        check_before_start(options)
        with passive_waiting(), exit_on_interrupt_during_import():
            from secateur.evaluation.corpus_perplexity import evaluate as run

        with StageReporter() as reporter:
            document = run(options, reporter)
        console.print(_table(document))
        if options.tasks:
            console.print(_task_table(document))
        if "instructions" in document:
            console.print(_instructions(document["instructions"]))
    if json:
        emit_json(document)


def _columns(document: dict[str, Any]) -> dict[str, Any]:
    """Dense and slim, or the one model there is."""
    return {name: document[name] for name in ("dense", "slim") if name in document} or {"model": document}


def _task_table(document: dict[str, Any]) -> Table:
    columns = _columns(document)
    table = Table(title="accuracy ± standard error")
    for name in ("", "examples", "chance", *columns):
        table.add_column(name, justify="right" if name else "left")
    for name, result in document["tasks"].items():
        chance = "none" if result["chance"] is None else f"{result['chance']:.3f}"
        cells = [_accuracy(column["tasks"][name]) for column in columns.values()]
        table.add_row(name, f"{result['examples']:,}", chance, *cells)
    return table


def _instructions(found: dict[str, Any]) -> str:
    likely = found["log_probability_of_dense_answers"]
    return (
        f"{found['prompts']} instructions: {found['same_first_sentence']:.1%} ± {found['stderr']:.1%} of "
        "answers begin with the dense model's first sentence; log-probability of the dense model's answers "
        f"{likely['slim']:.3f} per token (dense {likely['dense']:.3f})"
    )


def _accuracy(result: dict[str, Any]) -> str:
    error = "" if result["stderr"] is None else f" ± {result['stderr']:.3f}"
    return f"{result['accuracy']:.3f}{error}"


def _table(document: dict[str, Any]) -> Table:
    columns = _columns(document)
    table = Table(title=f"perplexity, windows of {document['window']} tokens")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for kind in ("non_embedding", "total"):
        row = [f"{column['parameters'][kind]:,}" for column in columns.values()]
        table.add_row(f"parameters, {kind.replace('_', '-')}", *row)
    for corpus in document["perplexity"]:
        table.add_row(corpus, *(f"{column['perplexity'][corpus]:.2f}" for column in columns.values()))
    return table
