"""`secateur study`: look into a study, and cut checkpoints from it without another search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.console import emit_json, stdout_to_stderr
from secateur.cli.interrupts import importing
from secateur.cli.prune import summarise
from secateur.cli.stages import StageReporter

app = typer.Typer(
    name="study", help="Look into a study, or cut another checkpoint from it.", no_args_is_help=True
)


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    parent.add_typer(app)


@app.command()
def cut(
    study: Annotated[Path, typer.Argument(help="The folder of the study.")],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to make; must not exist.")],
    keep: Annotated[
        float, typer.Option(help="Fraction of the dense model to keep; the best pair within it is cut.")
    ],
    id: Annotated[
        str | None, typer.Option("--id", help="The architecture to cut, as `study front` names it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on stdout.")] = False,
) -> None:
    """Cut a checkpoint from the architectures that a study has evaluated; nothing is searched.

    Example: secateur study cut slim.study --keep 0.7 --out slim-0.7
    """
    with stdout_to_stderr():
        with importing():
            from secateur.slim.pipeline import cut_from_study
            from secateur.slim.reopening import options_of

        options = options_of(study, keep=keep, out=out)
        with StageReporter() as reporter:
            record = cut_from_study(options, reporter, id)
        summarise(record)
    if json:
        emit_json(record)
