"""`secateur serve`: models behind gRPC, until Ctrl-C."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import duration, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Given, OptionCommand, takes_options
from secateur.config.serve import ServeOptions
from secateur.config.values import from_given

if TYPE_CHECKING:
    from secateur.serve.server import ServerReady


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(serve)


@takes_options(ServeOptions, config=True)
def serve(
    given: Given,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the options that hold, as such a file, and exit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one JSON document with address and models.")
    ] = False,
) -> None:
    """Serve models over gRPC until Ctrl-C; a second Ctrl-C cuts off running requests.

    Example: secateur serve dense=out/dense slim=out/slim --listen 127.0.0.1:50051
    """
    options = from_given(ServeOptions, given)
    if print_config:
        _print_config(options, as_json)
    else:
        _run(options, as_json)


def _print_config(options: ServeOptions, as_json: bool) -> None:
    import yaml

    from secateur.config.file import document as config_document

    if as_json:
        emit_json(config_document(options))
    else:
        print(yaml.safe_dump(config_document(options), sort_keys=False), end="")


def _run(options: ServeOptions, as_json: bool) -> None:
    import asyncio
    import logging
    import os
    import sys

    # gRPC's C core would add its own lines about what we report in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with exit_on_interrupt_during_import():
        from secateur.serve.checks import check_before_start
    check_before_start(options)
    with exit_on_interrupt_during_import():
        from secateur.serve.models.checkpoint import check_whole
        from secateur.serve.observe.logs import logging_to
        from secateur.serve.server import serve as serve_until_interrupted

    with stdout_to_stderr():
        check_whole(options.models, options.engine)
    as_objects = options.observe.log_json
    tell = logging.getLogger("secateur.serve").info if as_objects else print_status
    logs = logging_to(sys.stderr, as_json=as_objects, with_calls=options.observe.log_calls)

    # Engines inherit file descriptor 1 when they start; stdout is for the one JSON document.
    with logs, ExitStack() as redirection:
        redirection.enter_context(stdout_to_stderr())

        def ready(server: ServerReady) -> None:
            redirection.close()
            if as_json:
                emit_json(document(server))
            names = ", ".join(model.name for model in server.models)
            tell(f"serving {names} on {server.address} after {duration(server.seconds)}; Ctrl-C to stop")

        asyncio.run(serve_until_interrupted(options, ready, tell))


def document(server: ServerReady) -> dict[str, Any]:
    """Return what ``--json`` prints: ``address``, ``models``, ``seconds``."""
    return {
        "address": server.address,
        "models": [
            {
                "name": model.name,
                "version": model.version,
                "architecture": model.engine.architecture,
                "dtype": model.engine.dtype,
                "max_model_len": model.engine.max_model_len,
                "kv_cache_tokens": model.engine.kv_cache_tokens,
                "load_seconds": round(model.engine.load_seconds, 2),
            }
            for model in server.models
            if model.engine is not None
        ],
        "seconds": {"start": round(server.seconds, 2)},
    }
