"""`secateur token`: make a bearer token for a caller of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.console import emit_json, print_status
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import OptionCommand
from secateur.config.values import words
from secateur.errors import BadInput
from secateur.storage import os_errors_as_output_failed


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=OptionCommand)(token)


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the caller, as shown in logs.")],
    file: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Token file, as in `secateur serve --tokens`; the new token is added."
        ),
    ],
    scopes: Annotated[str, typer.Option(help="infer, admin, or infer,admin.")] = "infer",
    days: Annotated[float | None, typer.Option(help="Days until it expires. Default: never.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document: name, scopes, expiry and token.")
    ] = False,
) -> None:
    """Make a bearer token. It is printed once, on stdout; the file stores only its hash.

    Example: secateur token dashboard --scopes infer --days 90 --file tokens.toml
    """
    with exit_on_interrupt_during_import():
        from datetime import UTC, datetime, timedelta

        from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token, read_callers

    known_scopes = [scope.value for scope in Scope]
    requested_scopes = words(scopes)
    if not requested_scopes or set(requested_scopes) - set(known_scopes):
        raise BadInput("scopes", scopes, f"a list of {', '.join(known_scopes)}")
    if days is not None and not 0 < days < 36500:
        raise BadInput("days", days, "more than 0, at most 36500")
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = generate_token()
    text = format_caller_entry(name, map(Scope, requested_scopes), made, expires)
    if not file.absolute().parent.is_dir():
        raise BadInput("file", file, f"{file.absolute().parent} is not a folder")
    if file.exists():
        read_callers(file, "file")
        text = "\n" + text
    else:
        with os_errors_as_output_failed(file):
            file.touch(mode=0o600)
    if as_json:  # before it is in the file: one that could not be shown lets nobody in
        ends = None if expires is None else expires.isoformat(timespec="seconds")
        emit_json({"name": name, "scopes": requested_scopes, "expires": ends, "token": made})
    else:
        print(made, flush=True)
    with file.open("a") as lines:
        lines.write(text)
    print_status(
        f"{name} may call with 'authorization: Bearer TOKEN'; a running server wants a SIGHUP (kill -HUP PID)"
    )
