"""`secateur serve`: models behind gRPC, until Ctrl-C."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import duration, emit_json, say, stdout_to_stderr
from secateur.cli.interrupts import importing

if TYPE_CHECKING:
    from secateur.serve.options import ServeOptions
    from secateur.serve.server import Ready


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(serve)


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="NAME=DIR...", help="Name for clients, and checkpoint folder.")
    ],
    listen: Annotated[
        str, typer.Option(help="HOST:PORT (port 0: any free one) or unix:PATH.")
    ] = "127.0.0.1:50051",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow an address other machines can reach, unencrypted.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Server's certificate (PEM): encrypt connections.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of the certificate (PEM).")
    ] = None,
    client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Demand clients' certificates signed by these (PEM).")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bearer tokens that calls must carry.")
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Server's own files. Default: ~/.local/state/secateur."),
    ] = None,
    state: Annotated[
        str,
        typer.Option(metavar="URL", help="Database of models and jobs. Default: SQLite in --state-dir."),
    ] = "",
    roots: Annotated[
        str | None, typer.Option(metavar="DIR,...", help="Folders below which clients may name files.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(help="Most tokens of prompt and completion. Default: what fits.")
    ] = None,
    max_sequences: Annotated[int, typer.Option(help="Most requests computed at once, per model.")] = 64,
    max_queued: Annotated[int, typer.Option(help="Most requests held; more are refused.")] = 1024,
    kv_cache_memory: Annotated[
        str | None, typer.Option(help="Room for keys and values per model, for example 512MiB.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads per model. Default: a share.")] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile models. Default: on a GPU only.")
    ] = None,
    prefix_caching: Annotated[bool, typer.Option(help="Reuse work on prompts that begin alike.")] = True,
    drain_seconds: Annotated[
        float, typer.Option(help="How long running requests may go on after Ctrl-C or SIGTERM.")
    ] = 30.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what vLLM logs.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one JSON document with address and models.")
    ] = False,
) -> None:
    """Serve models over gRPC until Ctrl-C; a second Ctrl-C cuts off running requests.

    Example: secateur serve dense=out/dense slim=out/slim --listen 127.0.0.1:50051
    """
    with importing():
        from secateur.serve.options import (
            EngineOptions,
            ServeOptions,
            parse_bytes,
            parse_folders,
            parse_models,
            parse_tls,
            state_folder,
        )

    engine = EngineOptions(
        dtype=dtype,
        max_model_len=max_model_len,
        max_sequences=max_sequences,
        max_queued=max_queued,
        kv_cache_bytes=parse_bytes("--kv-cache-memory", kv_cache_memory),
        threads=threads,
        compiled=compiled,
        prefix_caching=prefix_caching,
        verbose=verbose,
    )
    with stdout_to_stderr():
        options = ServeOptions(
            models=parse_models(models),
            listen=listen,
            insecure=insecure,
            engine=engine,
            state_dir=state_dir or state_folder(),
            state=state,
            roots=parse_folders(roots),
            tls=parse_tls(tls_cert, tls_key, client_ca),
            tokens=tokens,
            drain_seconds=drain_seconds,
        )
    _run(options, as_json)


def _run(options: ServeOptions, as_json: bool) -> None:
    import asyncio
    import os

    # gRPC's C core would add its own lines about what we report in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with importing():
        from secateur.serve.server import serve as serve_until_interrupted

    # Engines inherit file descriptor 1 when they start; stdout is for the one JSON document.
    with ExitStack() as redirection:
        redirection.enter_context(stdout_to_stderr())

        def ready(server: Ready) -> None:
            redirection.close()
            if as_json:
                emit_json(document(server))
            names = ", ".join(model.name for model in server.models)
            say(f"serving {names} on {server.address} after {duration(server.seconds)}; Ctrl-C to stop")

        asyncio.run(serve_until_interrupted(options, ready, say))


def document(server: Ready) -> dict[str, Any]:
    """Return what ``--json`` prints: ``address``, ``models``, ``seconds``."""
    return {
        "address": server.address,
        "models": [
            {
                "name": model.name,
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
