"""`secateur export`: a checkpoint in the formats of other programs."""

from __future__ import annotations

import typer

from secateur.cli.console import emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.config.export import ExportOptions
from secateur.config.values import from_given


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(export)


@takes_options(ExportOptions)
def export(given: Given, json: Json = False) -> None:
    """Write a checkpoint for another program.

    Example: secateur export slim --gguf slim.gguf
    """
    with stdout_to_stderr():
        options = from_given(ExportOptions, given)
        with exit_on_interrupt_during_import():
            from secateur.checkpoint.conversion import check_before_start, convert

        check_before_start(options)
        document = convert(options)
        print_status(f"{document['out']} ({document['format']}) written, {document['bytes']:,} bytes")
    if json:
        emit_json(document)
