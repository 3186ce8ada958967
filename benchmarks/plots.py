"""Pictures of result files, as SVG beside them.

    python -m benchmarks.plots                            # the picture in the README
    python -m benchmarks.plots benchmarks/results/*.json  # every picture there is

A picture shows the numbers of its file alone; only `prune_quality` adds the peers, from a file of their own.
Files without a picture are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

RESULTS = Path(__file__).parent / "results"
README_RESULT = RESULTS / "amd-epyc-2-cores-2026-11-27-prune-quality.json"
PEERS = RESULTS / "peers-smollm2-135m.json"

OURS, OTHERS, QUIET = "#0a7", "#888", "#ccc"
# These three can be read on a white and on a dark page: at least 3 to 1 on both.
GREEN, GREY, TEXT = "#0f9d74", "#8a929b", "#6e7781"
PER_ROW = 0.28  # inches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, default=[README_RESULT])
    for file in parser.parse_args().results:
        figure = figure_of(json.loads(file.read_text()))
        if figure is not None:
            print(save(figure, file.with_suffix(".svg")))


def figure_of(result: Mapping[str, Any]) -> Figure | None:
    """The picture of a result; None where there is none of its kind."""
    drawings: dict[tuple[str, ...], Callable[[Mapping[str, Any]], Figure]] = {
        ("ranking",): evaluation,
        ("ceilings", "rows"): kernels,
        ("samplers", "learning"): samplers,
        ("dense", "budgets", "seeds"): prune_quality,
        ("inputs", "recovery"): recovery,
    }
    return next((draw(result) for keys, draw in drawings.items() if set(keys) <= result.keys()), None)


def save(figure: Figure, file: Path) -> Path:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    # A fixed salt: drawn again from the same numbers, the file is the same.
    with rc_context({"svg.hashsalt": "secateur"}):
        figure.savefig(
            temporary, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None}
        )
    temporary.rename(file)
    return file


def evaluation(result: Mapping[str, Any]) -> Figure:
    """Candidates per second, time against work, and how soon a ranking can be trusted."""
    figure = Figure(figsize=(13, 3.6))
    speed, work, ranking = figure.subplots(1, 3)
    rates = result["throughput"]["bf16"]["candidates_per_second"]
    _bars(speed, {name.replace("_", " "): rates[name] for name in ("secateur", "transformers")})
    speed.set_title(f"candidates per second ({result['throughput']['bf16']['ratio']:.1f} ×)")
    rows = result["proportional"]["rows"]
    work.plot([0, 1], [0, 1], color=QUIET, label="proportional")
    work.plot(
        [row["work_ratio"] for row in rows],
        [row["time_ratio"] for row in rows],
        "o-",
        color=OURS,
        label="measured",
    )
    work.set(
        xlabel="arithmetic, of the dense model's", ylabel="time, of the dense model's", title="cost of width"
    )
    work.legend(frameon=False)
    steps = result["ranking"]["steps"]
    for name, tau, color in (("secateur", "kl_tau", OURS), ("transformers", "nll_tau", OTHERS)):
        seconds = [step[f"{name}_seconds"] for step in steps]
        ranking.plot(seconds, [step[tau] for step in steps], color=color, label=name)
    ranking.axhline(result["ranking"]["seconds_to_tau"]["tau"], color=QUIET, linestyle="--")
    ranking.set(
        xscale="log",
        xlabel=f"seconds, {result['ranking']['candidates']} candidates",
        ylabel="Kendall's tau",
        title="agreement with the ranking by all windows",
    )
    ranking.legend(frameon=False)
    _titled(figure, result)
    return figure


def kernels(result: Mapping[str, Any]) -> Figure:
    """Milliseconds of every provider beside the floor of its case."""
    rows = [row for row in result["rows"] if "milliseconds" in row]
    figure = Figure(figsize=(9, 1 + PER_ROW * len(rows)))
    axes = figure.subplots()
    names = [f"{row['kernel']}, {row['shape']}: {row['provider']}" for row in rows]
    medians = [row["milliseconds"]["median"] for row in rows]
    spread = [
        [row["milliseconds"]["median"] - row["milliseconds"]["p20"] for row in rows],
        [row["milliseconds"]["p80"] - row["milliseconds"]["median"] for row in rows],
    ]
    colors = [OURS if _is_ours(row["provider"]) else OTHERS for row in rows]
    places = range(len(rows))
    axes.barh(places, medians, color=colors, xerr=spread, ecolor="#333")
    floors = [row["floor_ms"] for row in rows]
    axes.scatter(floors, places, marker="|", s=90, color="black", zorder=3, label="floor")
    axes.set_yticks(list(places), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="milliseconds: median, p20 to p80")
    axes.legend(frameon=False)
    _titled(figure, result)
    return figure


def samplers(result: Mapping[str, Any]) -> Figure:
    """The best so far over evaluations, what it is worth on unseen text, and tau over pairs."""
    figure = Figure(figsize=(15, 4))
    progress, unseen, learning = figure.subplots(1, 3)
    for number, (name, runs) in enumerate(result["samplers"].items()):
        color = OURS if name == "guided" else f"C{number}"
        best = [[math.nan if kl is None else kl for kl in run["best"]] for run in runs]
        steps = range(1, 1 + max(map(len, best)))
        # A run that ended early stays where it was.
        curves = [curve + curve[-1:] * (len(steps) - len(curve)) for curve in best]
        middle = [fmean(values) for values in zip(*curves, strict=True)]
        progress.plot(steps, middle, color=color, linewidth=2.5 if name == "guided" else 1.2, label=name)
        low, high = ([pick(values) for values in zip(*curves, strict=True)] for pick in (min, max))
        progress.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        found = [run["unseen_kl"] for run in runs if run["unseen_kl"] is not None]
        unseen.scatter(found, [number] * len(found), color=color, s=24)
    names = list(result["samplers"])
    last = [run["best"][-1] for runs in result["samplers"].values() for run in runs]
    ends = sorted(kl for kl in last if kl is not None)
    progress.set(
        xlabel="evaluations",
        ylabel="KL on search windows, nats per token",
        title=f"best so far, {result['keep']:g} kept (mean and range of seeds)",
        ylim=(ends[0] * 0.97, ends[len(ends) // 2] * 1.5),
    )
    progress.legend(frameon=False, fontsize=8)
    unseen.set_yticks(range(len(names)), names)
    unseen.invert_yaxis()
    unseen.set(
        xscale="log", xlabel="KL on unseen windows, nats per token", title="what was found, a dot per seed"
    )
    _learning(learning, result["learning"])
    _titled(figure, result)
    return figure


def prune_quality(result: Mapping[str, Any], peers: Mapping[str, Any] | None = None) -> Figure:
    """WikiText-2 perplexity against the fraction kept: ours (mean and range of seeds), peers, dense model."""
    peers = json.loads(PEERS.read_text()) if peers is None else peers
    figure = Figure(figsize=(8.2, 5))
    axes = figure.subplots()
    dense = result["dense"]["wikitext2"]
    axes.axhline(dense, color=TEXT, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "dense model", (0.5, dense), (0, -5), textcoords="offset points",
        va="top", ha="right", color=TEXT, fontsize=10,
    )  # fmt: skip
    for (name, method), marker in zip(peers["methods"].items(), "sD^", strict=False):
        rows = sorted(method["rows"], key=lambda row: -row["keep"])
        kept, values = [row["keep"] for row in rows], [row["perplexity"]["wikitext2"] for row in rows]
        axes.plot(kept, values, color=GREY, marker=marker, markersize=5, linewidth=1.4, label=name)
        _label_end(axes, kept[-1], values[-1], f"{name} {values[-1]:.0f}", color=TEXT)
    kept = sorted((float(keep) for keep in result["budgets"]), reverse=True)
    runs = [
        [seed[f"{keep:g}"]["perplexity"]["wikitext2"] for seed in result["seeds"].values()] for keep in kept
    ]
    means = [fmean(values) for values in runs]
    spread = [
        [mean - min(values) for mean, values in zip(means, runs, strict=True)],
        [max(values) - mean for mean, values in zip(means, runs, strict=True)],
    ]
    axes.errorbar(
        kept, means, yerr=spread, color=GREEN, marker="o", markersize=6, linewidth=2.8, capsize=4, zorder=3,
        label="Secateur",
    )  # fmt: skip
    for x, y in zip(kept[:-1], means[:-1], strict=True):
        axes.annotate(
            f"{y:.1f}", (x, y), (0, -7), textcoords="offset points",
            ha="center", va="top", color=GREEN, fontsize=9,
        )  # fmt: skip
    _label_end(axes, kept[-1], means[-1], f"Secateur {means[-1]:.1f}", color=GREEN, weight="bold", size=12)
    ticks = [dense, 100, 200, 400, 800]
    axes.set(yscale="log", xlim=(0.93, 0.485), ylim=(31, 1000))
    axes.set_xticks(kept, [f"{keep:.0%}" for keep in kept])
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(colors=TEXT, labelsize=10, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.set_xlabel("non-embedding parameters kept", color=TEXT, fontsize=10)
    axes.set_title(
        "Perplexity after pruning: lower is better",
        loc="left",
        color=TEXT,
        fontsize=14,
        weight="bold",
        pad=24,
    )
    seeds = len(result["seeds"])
    axes.text(
        0, 1.025,
        "SmolLM2-135M-Instruct, no training. WikiText-2 test, log scale. "
        f"Secateur: mean and range of {seeds} seeds.",
        transform=axes.transAxes, color=TEXT, fontsize=10,
    )  # fmt: skip
    return figure


def recovery(result: Mapping[str, Any]) -> Figure:
    """Validation KL against tokens trained on, a line per run; and what is left of each test's gap."""
    figure = Figure(figsize=(11, 3.8))
    learning, tests = figure.subplots(1, 2)
    for number, run in enumerate(result["recovery"]):
        tokens = [each["step"] * run["tokens_per_step"] for each in run["validated"]]
        name = f"{run['train']}, {run['text']}"
        color = OURS if run["train"] == "full" else f"C{number}"
        kls = [each["kl"] for each in run["validated"]]
        learning.plot(tokens, kls, marker="o", markersize=4, color=color, label=name)
        dense, before = result["dense"], result["inputs"][run["slim"]]
        left = [
            (math.log(run["perplexity"][test]) - math.log(dense[test]))
            / (math.log(before[test]) - math.log(dense[test]))
            for test in dense
        ]
        places = [place + 0.8 * number / len(result["recovery"]) for place in range(len(left))]
        bars = tests.bar(places, left, 0.7 / len(result["recovery"]), color=color, label=name)
        tests.bar_label(bars, fmt="%.2f", fontsize=7)
    learning.set(xlabel="tokens", ylabel="nats per token", title="KL from the dense model, validation text")
    learning.legend(frameon=False, fontsize=8)
    tests.axhline(1, color=QUIET, linestyle="--")
    tests.set_xticks([place + 0.3 for place in range(len(result["dense"]))], list(result["dense"]))
    tests.set_title("log-perplexity gap to the dense model that is left, test text")
    _titled(figure, result)
    return figure


def _label_end(
    axes: Axes, x: float, y: float, text: str, *, color: str, size: int = 10, **style: Any
) -> None:
    """Name a line to the right of its last point."""
    axes.annotate(
        text, (x, y), (9, 0), textcoords="offset points",
        va="center", ha="left", color=color, fontsize=size, annotation_clip=False, **style,
    )  # fmt: skip


def _learning(axes: Axes, learning: Mapping[str, Any]) -> None:
    """Tau over pairs of every regressor, on the set with most pairs."""
    name, found = max(
        learning.items(), key=lambda item: item[1]["pairs"], default=("no pairs", {"curves": {}})
    )
    for regressor, rows in found["curves"].items():
        axes.errorbar(
            [row["pairs"] for row in rows],
            [row["tau"] for row in rows],
            [row["tau_std"] for row in rows],
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=regressor,
        )
    axes.axhline(0.8, color=QUIET, linestyle="--")
    axes.set(xlabel="pairs", ylabel="Kendall's tau, held-out pairs", title=f"predictor: {name}")
    axes.legend(frameon=False, fontsize=8)


def _is_ours(provider: str) -> bool:
    return any(word in provider for word in ("linear_", "masked_", "nested_"))


def _bars(axes: Axes, values: Mapping[str, float]) -> None:
    bars = axes.bar(list(values), list(values.values()), color=[OURS, OTHERS][: len(values)])
    axes.bar_label(bars, fmt="%.2f")


def _titled(figure: Figure, result: Mapping[str, Any]) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    about = [str(result[key]) for key in ("model", "device", "date") if result.get(key)]
    figure.suptitle(", ".join(about), fontsize=9, y=1.04 if len(figure.axes) > 1 else 1.0)


if __name__ == "__main__":
    main()
