"""What the commands that make checkpoints share: `secateur prune` and `secateur study cut`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.cli.console import console, duration, print_status
from secateur.cli.interrupts import exit_on_interrupt_during_import

if TYPE_CHECKING:
    from secateur.model.decoder import DecoderModel
    from secateur.progress import ProgressReporter
    from secateur.space.costs.latency import LatencyTable


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
    out = record["out"]
    print_status(f"next: secateur evaluate {out} --corpus FILE, or secateur serve NAME={out}")


def summarise_recovery(record: dict[str, Any]) -> None:
    """Say on stderr what recovery won."""
    told = record["recovery"]
    speed = told["tokens"] / max(told["seconds"], 1e-9)
    print_status(
        f"trained {told['train']} on {told['tokens']:,} tokens in {duration(told['seconds'])} "
        f"({speed:,.0f} tokens/s)"
    )
    if not told["steps"]:
        print_status("the time was over before the first step: the weights are the input's")
    elif not told["best_step"]:
        print_status("no step was better than the input on validation text: its weights were kept")
    for corpus, value in record["slim"]["perplexity"].items():
        before, dense = told["input"]["perplexity"][corpus], record["dense"]["perplexity"][corpus]
        print_status(f"perplexity on {corpus}: dense {dense:.2f}, before {before:.2f}, after {value:.2f}")
    print_status(f"KL on it: before {told['input']['kl']:.4f}, after {told['kl']:.4f}")
