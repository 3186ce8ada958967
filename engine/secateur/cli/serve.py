"""`secateur serve`: models behind gRPC, until Ctrl-C."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import duration, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import OptionCommand
from secateur.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from secateur.serve.options import ServeOptions
    from secateur.serve.server import ServerReady

ENGINES, ACCESS, LIMITS, LIFE, OBSERVE = "Engines", "Access", "Limits", "Life", "Observation"
FROM_FILE = "DEFAULT_MAP"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=OptionCommand)(serve)


def _take_over(context: typer.Context, file: Path | None) -> Path | None:
    """Make what the file says the defaults of all other options."""
    if file is not None and not context.resilient_parsing:
        with exit_on_interrupt_during_import():
            from secateur.serve.config import read_config
        context.default_map = read_config(file)
    return file


def serve(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=DIR...", help="Name for clients, and checkpoint folder."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Take options from a YAML or TOML file.", callback=_take_over, is_eager=True
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the options that hold, as such a file, and exit.")
    ] = False,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT (port 0: any free one) or unix:PATH.")
    ] = "127.0.0.1:50051",
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
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Server's certificate (PEM): encrypt connections.", rich_help_panel=ACCESS
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key of the certificate (PEM).", rich_help_panel=ACCESS),
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Demand clients' certificates signed by these (PEM).", rich_help_panel=ACCESS
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Allow an address other machines can reach, unencrypted.",
            rich_help_panel=ACCESS,
        ),
    ] = False,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who may call (see secateur token).", rich_help_panel=ACCESS),
    ] = None,
    open_to_all: Annotated[
        str,
        typer.Option(
            "--open",
            metavar="LIST",
            help="What needs no token: health, reflection, or both.",
            rich_help_panel=ACCESS,
        ),
    ] = "health",
    reflection: Annotated[
        bool, typer.Option(help="Let clients ask which services there are.", rich_help_panel=ACCESS)
    ] = True,
    rate_limit: Annotated[
        float | None, typer.Option(help="Calls a second, per caller.", rich_help_panel=LIMITS)
    ] = None,
    rate_burst: Annotated[
        float | None,
        typer.Option(
            help="Calls in a row before --rate-limit tells. Default: 2 s worth.", rich_help_panel=LIMITS
        ),
    ] = None,
    max_calls: Annotated[int, typer.Option(help="Calls at the same time.", rich_help_panel=LIMITS)] = 4096,
    max_calls_per_caller: Annotated[
        int | None, typer.Option(help="The same, of one caller.", rich_help_panel=LIMITS)
    ] = None,
    max_message: Annotated[
        str, typer.Option(help="Largest message, either way.", rich_help_panel=LIMITS)
    ] = "64MiB",
    max_queued: Annotated[
        int, typer.Option(help="Most requests held per model; more are refused.", rich_help_panel=LIMITS)
    ] = 1024,
    max_queued_tokens: Annotated[
        int | None,
        typer.Option(help="Most prompt tokens waiting per model; more are refused.", rich_help_panel=LIMITS),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto, bfloat16, float16 or float32.", rich_help_panel=ENGINES)
    ] = "auto",
    max_model_len: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of prompt and completion. Default: what fits.", rich_help_panel=ENGINES
        ),
    ] = None,
    max_sequences: Annotated[
        int, typer.Option(help="Most requests computed at once, per model.", rich_help_panel=ENGINES)
    ] = 64,
    kv_cache_memory: Annotated[
        str | None,
        typer.Option(help="Room for keys and values per model, for example 512MiB.", rich_help_panel=ENGINES),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per model. Default: a share.", rich_help_panel=ENGINES)
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile models. Default: on a GPU only.",
            rich_help_panel=ENGINES,
        ),
    ] = None,
    prefix_caching: Annotated[
        bool, typer.Option(help="Reuse work on prompts that begin alike.", rich_help_panel=ENGINES)
    ] = True,
    keepalive: Annotated[
        float, typer.Option(help="Seconds of silence before a client is pinged.", rich_help_panel=LIFE)
    ] = 60.0,
    keepalive_timeout: Annotated[
        float, typer.Option(help="Seconds it has to answer.", rich_help_panel=LIFE)
    ] = 20.0,
    max_connection_age: Annotated[
        float | None,
        typer.Option(help="Seconds until clients are asked to connect anew.", rich_help_panel=LIFE),
    ] = None,
    max_connection_age_grace: Annotated[
        float, typer.Option(help="Seconds that their running calls may go on.", rich_help_panel=LIFE)
    ] = 600.0,
    lame_duck_seconds: Annotated[
        float | None,
        typer.Option(
            help="How long new calls are answered after SIGTERM, while health says NOT_SERVING. "
            "Default: 3; on an address of this machine 0.",
            rich_help_panel=LIFE,
        ),
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(help="How long running requests may go on after that.", rich_help_panel=LIFE)
    ] = 30.0,
    keep_seconds: Annotated[
        float,
        typer.Option(help="How long a replaced version stays loaded for a rollback.", rich_help_panel=LIFE),
    ] = 600.0,
    jobs: Annotated[
        int, typer.Option(help="Prune jobs at the same time; the others wait.", rich_help_panel=LIFE)
    ] = 1,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Answer Prometheus there.", rich_help_panel=OBSERVE),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Send OpenTelemetry traces there (OTLP/gRPC).", rich_help_panel=OBSERVE
        ),
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log JSON objects.", rich_help_panel=OBSERVE)
    ] = False,
    log_calls: Annotated[
        bool, typer.Option("--log-calls", help="Log a line per call.", rich_help_panel=OBSERVE)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what vLLM logs.", rich_help_panel=OBSERVE)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one JSON document with address and models.")
    ] = False,
) -> None:
    """Serve models over gRPC until Ctrl-C; a second Ctrl-C cuts off running requests.

    Example: secateur serve dense=out/dense slim=out/slim --listen 127.0.0.1:50051
    """
    # All parameters are taken from the context: there each also has its source, the file or the command line.
    try:
        with stdout_to_stderr():
            options = _options(context.params)
    except BadInput as error:
        raise _naming_its_key(error, context) from error
    if print_config:
        _print_config(context.params, as_json)
        return
    _run(options, as_json)


def _options(given: Mapping[str, Any]) -> ServeOptions:
    """Check everything that was given.

    Raises:
        BadInput: naming the option at fault.
    """
    with exit_on_interrupt_during_import():
        from secateur.serve import options
    engine = options.EngineOptions(
        dtype=given["dtype"],
        max_model_len=given["max_model_len"],
        max_sequences=given["max_sequences"],
        max_queued=given["max_queued"],
        max_queued_tokens=given["max_queued_tokens"],
        kv_cache_bytes=options.parse_bytes("--kv-cache-memory", given["kv_cache_memory"]),
        threads=given["threads"],
        compiled=given["compiled"],
        prefix_caching=given["prefix_caching"],
        verbose=given["verbose"],
    )
    limits = options.LimitOptions(
        rate=given["rate_limit"],
        burst=given["rate_burst"],
        calls_per_caller=given["max_calls_per_caller"],
        calls=given["max_calls"],
        message_bytes=options.parse_bytes("--max-message", given["max_message"]) or 0,
    )
    connections = options.ConnectionOptions(
        keepalive=given["keepalive"],
        keepalive_timeout=given["keepalive_timeout"],
        max_age=given["max_connection_age"],
        max_age_grace=given["max_connection_age_grace"],
    )
    observe = options.ObserveOptions(
        metrics=given["metrics"],
        traces=given["traces"],
        log_json=given["log_json"],
        log_calls=given["log_calls"],
    )
    return options.ServeOptions(
        models=options.parse_models(given["models"] or ()),
        listen=given["listen"],
        insecure=given["insecure"],
        engine=engine,
        state_dir=given["state_dir"] or options.state_folder(),
        state=given["state"],
        roots=options.parse_folders(given["roots"]),
        tls=options.parse_tls(given["tls_cert"], given["tls_key"], given["client_ca"]),
        tokens=given["tokens"],
        open_to_all=options.parse_list(given["open_to_all"]),
        reflection=given["reflection"],
        limits=limits,
        connections=connections,
        observe=observe,
        lame_duck_seconds=given["lame_duck_seconds"],
        drain_seconds=given["drain_seconds"],
        keep_seconds=given["keep_seconds"],
        jobs=options.JobOptions(concurrency=given["jobs"]),
    )


def _naming_its_key(error: BadInput, context: typer.Context) -> BadInput:
    """Return the error as one of the file's key, if the value came from there."""
    with exit_on_interrupt_during_import():
        from secateur.serve.config import key_of
    for name in context.params:
        option = "NAME=DIR" if name == "models" else f"--{key_of(name)}"
        source = context.get_parameter_source(name)
        if option == error.field and source is not None and source.name == FROM_FILE:
            reason = f"{key_of(name)}: got {error.given}: {error.allowed}"
            return BadInput("--config", context.params["config"], reason)
    return error


def _print_config(parameters: Mapping[str, Any], as_json: bool) -> None:
    import yaml

    from secateur.serve.config import document as config_document

    if as_json:
        emit_json(config_document(parameters))
    else:
        print(yaml.safe_dump(config_document(parameters), sort_keys=False), end="")


def _run(options: ServeOptions, as_json: bool) -> None:
    import asyncio
    import logging
    import os
    import sys

    # gRPC's C core would add its own lines about what we report in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with exit_on_interrupt_during_import():
        from secateur.serve.observe.logs import logging_to
        from secateur.serve.server import serve as serve_until_interrupted

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
