"""`secateur bench`: how fast a server's models are, under which load, and what that costs in quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.console import emit_json, print_status, print_table, stdout_to_stderr
from secateur.cli.interrupts import INTERRUPTED, exit_on_interrupt_during_import
from secateur.cli.offline import run_offline
from secateur.cli.options import OptionCommand
from secateur.cli.stages import StageReporter
from secateur.cli.target import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    Insecure,
    Timeout,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    Token,
    TokenFile,
    option_names_in_errors,
    read_token,
)

if TYPE_CHECKING:
    from secateur.bench.load.journal import BenchmarkLog
    from secateur.bench.options import BenchOptions

OFFLINE = "Without a server"


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(bench)


def bench(
    target: Annotated[
        str,
        typer.Option(
            help="HOST:PORT of secateur serve, oip://HOST:PORT (Open Inference Protocol), "
            "http://HOST:PORT (OpenAI).",
            envvar="SECATEUR_TARGET",
        ),
    ] = DEFAULT_TARGET,
    model: Annotated[str, typer.Option(help="Name of the model. Default: the only, or default, one.")] = "",
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL[@TARGET]", help="Take turns with this model; repeatable."),
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Closed loop: so many clients, for example 1,4,16. Default: 1.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Open loop: so many requests per second, for example 2,4,8.")
    ] = None,
    ramp: Annotated[str | None, typer.Option(metavar="FROM:TO", help="Open loop whose rate changes.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="JSONL of requests: timestamp (ms), input_length, output_length.")
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="More and more clients until saturation.")] = False,
    arrivals: Annotated[str, typer.Option(help="Of an open loop: poisson or constant.")] = "poisson",
    max_concurrency: Annotated[
        int | None, typer.Option(help="Of an open loop: most requests in flight; others wait here.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Measure each load for so long (30).")] = None,
    requests: Annotated[int | None, typer.Option(help="Or so many requests of each load.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Turns of each model per load (1; with --compare 6).")
    ] = None,
    input_len: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 256,
    output_len: Annotated[int, typer.Option(help="Tokens of each answer.")] = 64,
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Let answers end where the model ends them.")
    ] = False,
    corpus: Annotated[
        str, typer.Option(help="Cut prompts from this text instead of making them up: file, folder, pydoc.")
    ] = "",
    slo: Annotated[
        str | None, typer.Option(help="ttft=500ms,tpot=50ms or a preset such as mlperf-llama3.1-8b.")
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=DIR", help="Its folder, for size and perplexity; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    offline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="No server: time this checkpoint in the engine, beside what the machine can do; repeatable.",
            rich_help_panel=OFFLINE,
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Sequences computed together.", rich_help_panel=OFFLINE)
    ] = "1,8,32",
    context: Annotated[
        int, typer.Option(help="Tokens of each sequence while it is decoded.", rich_help_panel=OFFLINE)
    ] = 256,
    threads: Annotated[
        int | None, typer.Option(help="Of the engine on a CPU.", min=1, rich_help_panel=OFFLINE)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights.", rich_help_panel=OFFLINE)] = "bfloat16",
    out: Annotated[
        Path | None, typer.Option(help="New folder for records, report.json and report.html.")
    ] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="Only report on the records.jsonl of an earlier benchmark.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token: Token = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Measure the latency and throughput of a running server, or compare models that it serves.

    Example: secateur bench --model dense --compare slim --concurrency 1,4,16 --seconds 30
    Example: secateur bench --rate 2,4,8 --slo ttft=500ms,tpot=50ms --out bench-slim
    Example: secateur bench --offline out/dense --offline out/slim --batch 1,8,32
    """
    if offline:
        found = run_offline(offline, batch, input_len, context, rounds, dtype, threads, out)
        if as_json:
            emit_json(found)
        return
    with stdout_to_stderr():
        with exit_on_interrupt_during_import():
            from secateur.bench.document import benchmark_document
            from secateur.bench.load.journal import read_journal
            from secateur.bench.metrics.slo import parse_slo
            from secateur.bench.options import (
                COMPARISON_ROUNDS,
                BenchOptions,
                LoadArguments,
                parse_checkpoints,
                parse_loads,
                parse_targets,
            )
            from secateur.bench.place import output_folder
            from secateur.bench.written import write_report
            from secateur.client.endpoint import Endpoint
            from secateur.report.bench_tables import bench_tables

        if again is not None:
            log, folder = read_journal(again), output_folder(out) if out is not None else None
        else:
            folder = output_folder(out)
            typed = LoadArguments(
                concurrency, rate, ramp, trace, sweep, arrivals, max_concurrency, seconds, requests
            )
            loads, extent, entries = parse_loads(typed)
            subjects = parse_targets(target, model, compare or ())
            with option_names_in_errors():
                access = Endpoint(
                    "localhost:0",
                    tls=tls,
                    ca=tls_ca,
                    cert=tls_cert,
                    key=tls_key,
                    token=read_token(token, token_file),
                    insecure=insecure,
                    timeout=timeout,
                )
                options = BenchOptions(
                    subjects=subjects,
                    loads=loads,
                    extent=extent,
                    sweep=sweep,
                    input_tokens=input_len,
                    output_tokens=output_len,
                    ignore_eos=not stop_at_eos,
                    corpus=corpus,
                    trace=entries,
                    rounds=rounds if rounds is not None else COMPARISON_ROUNDS if compare else 1,
                    slo=parse_slo(slo) if slo is not None else None,
                    seed=seed,
                    access=access,
                    checkpoints=parse_checkpoints(checkpoint or ()),
                )
            log = _measure(options, folder)
        described = benchmark_document(log)
        if folder is not None:
            write_report(folder, log)  # first: what is printed may go to somebody who left
        for table in bench_tables(described):
            print_table(table)
        if folder is not None:
            print_status(f"records, report.json and report.html are in {folder}")
    if as_json:
        emit_json(described)
    if described["benchmark"]["interrupted"]:
        raise typer.Exit(INTERRUPTED)
    if described["benchmark"]["gave_up"]:
        raise typer.Exit(1)


def _measure(options: BenchOptions, folder: Path) -> BenchmarkLog:
    import asyncio
    import os

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with exit_on_interrupt_during_import():
        from secateur.bench.interrupts import interruptible
        from secateur.bench.place import RECORDS
        from secateur.bench.run import run

    file = folder / RECORDS
    with StageReporter() as reporter:
        return asyncio.run(interruptible(lambda stop: run(options, file, reporter, stop)))
