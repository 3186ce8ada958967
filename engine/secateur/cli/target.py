"""Which server a command talks to, and how: the options that all such commands share."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import sign
from secateur.errors import BadInput

if TYPE_CHECKING:
    from secateur.client import Client
    from secateur.client.endpoint import Endpoint

T = TypeVar("T")

PANEL = "Server"
TOKEN_VARIABLE = "SECATEUR_TOKEN"

Target = Annotated[
    str, typer.Option(help="Address of the server.", envvar="SECATEUR_TARGET", rich_help_panel=PANEL)
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Use TLS with the system's certificate authorities.", rich_help_panel=PANEL),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(help="Use TLS with the certificate authorities in this PEM file.", rich_help_panel=PANEL),
]
TlsCert = Annotated[
    Path | None, typer.Option(help="Client certificate (PEM), for mutual TLS.", rich_help_panel=PANEL)
]
TlsKey = Annotated[Path | None, typer.Option(help="Private key of --tls-cert (PEM).", rich_help_panel=PANEL)]
Token = Annotated[
    str | None,
    typer.Option(
        help="Bearer token. Other users can see command lines: prefer the variable or a file.",
        envvar=TOKEN_VARIABLE,
        show_envvar=True,
        rich_help_panel=PANEL,
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the bearer token; - is stdin.", rich_help_panel=PANEL)
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Allow sending the token unencrypted to another machine.", rich_help_panel=PANEL
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait until the server is up and has loaded the model.", rich_help_panel=PANEL
    ),
]
Timeout = Annotated[
    float, typer.Option(help="Give up after this many seconds.", min=0.001, rich_help_panel=PANEL)
]

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 600.0
# The client's names of options, and the user's.
CONNECTION_OPTIONS = {
    "ca": "--tls-ca",
    "cert": "--tls-cert",
    "key": "--tls-key",
    "token": "--token",
    "timeout": "--timeout",
}


def connect(
    target: str,
    timeout: float = DEFAULT_TIMEOUT,
    *,
    tls: bool = False,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    insecure: bool = False,
    wait: bool = False,
) -> Client:
    """Return a client of the server that the options name.

    Raises:
        BadInput: they do not fit together, or a file cannot be read.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with exit_on_interrupt_during_import():
        from secateur.client import Client

    with option_names_in_errors():
        return Client(
            target,
            timeout,
            tls=tls,
            ca=tls_ca,
            cert=tls_cert,
            key=tls_key,
            token=read_token(token, token_file),
            insecure=insecure,
            wait_for_ready=wait,
        )


def with_client(command: Callable[..., T]) -> Callable[..., T]:
    """Make a command of a function with an argument `client`: it gets the options of `connect` instead."""
    shared = {
        "target": (Target, DEFAULT_TARGET),
        "tls": (Tls, False),
        "tls_ca": (TlsCa, None),
        "tls_cert": (TlsCert, None),
        "tls_key": (TlsKey, None),
        "token": (Token, None),
        "token_file": (TokenFile, None),
        "insecure": (Insecure, False),
        "wait": (Wait, False),
        "timeout": (Timeout, DEFAULT_TIMEOUT),
    }

    @functools.wraps(command)
    def connected(**given: Any) -> T:
        with connect(**{name: given.pop(name) for name in shared}) as client:
            return command(client=client, **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]
    sign(connected, command, "client", added)
    return connected


def endpoint_arguments(endpoint: Endpoint) -> list[str]:
    """Return the options that lead to an endpoint again, without its token."""
    files = {"--tls-ca": endpoint.ca, "--tls-cert": endpoint.cert, "--tls-key": endpoint.key}
    words = ["--target", endpoint.target] if endpoint.target != DEFAULT_TARGET else []
    for option, file in files.items():
        words += [option, str(file)] if file is not None else []
    if endpoint.tls:
        words.append("--tls")
    if endpoint.insecure:
        words.append("--insecure")
    return words


@contextmanager
def option_names_in_errors() -> Iterator[None]:
    """Let errors about the connection name the user's options."""
    from secateur.client.endpoint import Unencrypted

    try:
        yield
    except Unencrypted as error:
        allowed = "would travel unencrypted to another machine: give --tls-ca, --tls or --insecure"
        raise BadInput("--token", error.given, allowed) from error
    except BadInput as error:
        raise BadInput(
            CONNECTION_OPTIONS.get(error.field, error.field), error.given, error.allowed
        ) from error


def read_token(token: str | None, file: Path | None) -> str | None:
    """Return the token, or that in the file; the variable yields to a file.

    Raises:
        BadInput: both are given, or the file cannot be read, or there is no token in it.
    """
    if file is None:
        return token
    if token is not None and token != os.environ.get(TOKEN_VARIABLE):
        raise BadInput("--token-file", file, "--token gives a token already: give one of them")
    try:
        text = sys.stdin.read() if str(file) == "-" else file.expanduser().read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not ASCII"
        raise BadInput("--token-file", file, f"cannot be read: {why}") from error
    found = text.strip()
    if not (found and found.isprintable()):
        raise BadInput("--token-file", file, "one token in it: printable ASCII, at least one character")
    return found
