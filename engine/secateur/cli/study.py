"""`secateur study`: look at what a search found, and cut other checkpoints from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.checkpoints import measured_latency, summarise
from secateur.cli.console import console, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.stages import StageReporter
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given
from secateur.prune.checks import check_places
from secateur.report.study_page_file import require_replaceable, write_page
from secateur.study.location import check_exists
from secateur.threads import passive_waiting

DEFAULT_PAGE = Path("report.html")
StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="Folder of a study (prune makes OUT.study), or the URL of its database."
    ),
]

app = typer.Typer(
    name="study",
    no_args_is_help=True,
    help="""Look at the study of a search, and cut other checkpoints from it. Every command takes --json.

Example: secateur study front slim.study

Example: secateur study report slim.study --out report.html

Example: secateur study cut slim.study --keep 0.7 --out slim-0.7
""",
)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app)


@app.command(cls=OptionCommand)
def front(
    study: StudyArgument,
    cost: Annotated[
        str, typer.Option(help="Cost to compare with KL: params, total, memory, kv, or the study's own.")
    ] = "params",
    json: Json = False,
) -> None:
    """List the architectures that no other one beats in both cost and KL.

    Example: secateur study front slim.study --cost params
    """
    with stdout_to_stderr():
        check_exists(study)
        with exit_on_interrupt_during_import():
            from secateur.report.study_front import study_front
            from secateur.report.study_tables import front_table
            from secateur.study.view import view_study

        document = study_front(view_study(study), cost)
        if not json:
            console.print(front_table(document))
    if json:
        emit_json(document)


@app.command(cls=OptionCommand)
def report(
    study: StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option(help=f"HTML file to write. Default: {DEFAULT_PAGE}, unless --json is given."),
    ] = None,
    json: Json = False,
) -> None:
    """Report on a study: tables on the terminal, and one HTML page with figures that needs no network.

    Example: secateur study report slim.study --out report.html
    """
    page = out if out is not None or json else DEFAULT_PAGE
    with stdout_to_stderr():
        check_exists(study)
        if page is not None:
            require_replaceable(page)
        with exit_on_interrupt_during_import():
            from secateur.report.study_page import study_page
            from secateur.report.study_report import study_report
            from secateur.report.study_tables import report_tables
            from secateur.study.view import view_study

        document = study_report(view_study(study))
        if page is not None:
            write_page(page, study_page(document))
        if not json:
            for part in report_tables(document):
                console.print(part)
        if page is not None:
            print_status(f"{page} written")
    if json:
        emit_json(document)


@app.command(cls=OptionCommand)
@takes_options(
    PruneOptions,
    only=lambda option: option.name in ("out", "keep", "budget", "speedup", "device"),
    helps={
        "keep": "Fraction of the dense model to keep, over 0 and up to 1; the best trial within it is cut.",
        "budget": "What `keep` counts (params), or several limits: params=0.8,kv=0.67.",
    },
)
def cut(
    study: StudyArgument,
    given: Given,
    id: Annotated[
        str | None, typer.Option("--id", help="The architecture to cut, by its id in `study front`.")
    ] = None,
    json: Json = False,
) -> None:
    """Cut a checkpoint from the architectures that a study has evaluated, without another search.

    Example: secateur study cut slim.study --keep 0.7 --out slim-0.7
    """
    with stdout_to_stderr():
        if id is not None and not {"keep", "budget", "speedup"} & set(given):
            given = {**given, "keep": "1"}
        check_exists(study)
        check_places(from_given(PruneOptions, {**given, "model": study}))  # the study says its other options
        with passive_waiting(), exit_on_interrupt_during_import():
            from secateur.prune.pipeline import cut_from_study, options_of_study

        options = options_of_study(study, given)
        with StageReporter() as reporter:
            record = cut_from_study(options, reporter, id, measured_latency)
        summarise(record)
    if json:
        emit_json(record)
