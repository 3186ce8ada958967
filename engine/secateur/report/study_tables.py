"""A study for the terminal: tables drawn from the document of `study_report` or `study_front`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from secateur.report.protocol import protocol_rows
from secateur.report.removal import NAMES

_BARS = " ▁▂▃▄▅▆▇█"
_GONE = "×"
ID_WIDTH = 16  # of `Architecture.digest`, which is typed or pasted
END = 7  # rows from either end of a long table; the page and the document have all


def front_table(document: Mapping[str, Any]) -> Table:
    """The document of ``secateur study front``: one row per pair, cheapest first."""
    cost, front = document["cost"], document["front"]
    table = _table(f"{len(front)} of {document['pairs']} pairs are on the front")
    table.add_column("id", no_wrap=True, min_width=ID_WIDTH)  # first to be read, last to be shortened
    for name in ("kept", cost["unit"], "KL, nats/token", "perplexity"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("found by")
    for pair in front:
        table.add_row(
            pair["id"],
            f"{pair['kept']:.4f}",
            f"{pair['cost']:,}",
            _kl(pair),
            _ratio(pair["perplexity_ratio"]),
            _origin(pair),
        )
    return table


def report_tables(document: Mapping[str, Any]) -> Iterator[Table | Text]:
    """The document of ``secateur study report``, part by part."""
    figures = document["figures"]
    yield _protocol(document)
    yield _goals(document["goals"])
    yield _widths(figures["widths"])
    yield Text(figures["removal"]["sentence"])
    for goal in figures["removal"]["goals"]:
        yield Text(f"goal {goal['goal']}: {goal['summary']}")
    if figures["removal"]["sensitivity"]:
        yield _removal(figures["removal"])
    if figures["predictor"]["rounds"]:
        yield _rounds(figures["predictor"]["rounds"])
    if figures["seconds"]:
        yield _seconds(figures["seconds"])
    if document["missing"]:
        yield Text(f"This study does not hold {'; '.join(document['missing'])}.")


def _protocol(document: Mapping[str, Any]) -> Table:
    counts = document["counts"]
    title = (
        f"{document['study']}: {counts['single_cuts']} single cuts, "
        f"{counts['evaluations']} proposals in {counts['rounds']} rounds"
    )
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in protocol_rows(document):
        table.add_row(name, Text(value))
    return table


def _goals(goals: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("best of every goal: KL in nats/token; the rest as fractions of the dense model's")
    table.add_column("goal")
    kinds = list(dict.fromkeys(kind for goal in goals if goal["best"] for kind in goal["best"]["kept"]))
    for name in ("KL", "perplexity", *kinds):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("id", no_wrap=True, min_width=ID_WIDTH)
    for goal in goals:
        best = goal["best"]
        if best is None:
            table.add_row(goal["name"], "none fits")
            continue
        kept_fractions = (f"{best['kept'][kind]:.4f}" for kind in kinds)
        ratio = _ratio(best["perplexity_ratio"])
        table.add_row(goal["name"], f"{best['kl']:.4f}", ratio, *kept_fractions, best["id"])
    return table


def _widths(widths: Mapping[str, Any]) -> Table:
    table = _table(f"widths kept per layer, first to last ({_GONE} removed)")
    for name in ("goal", *NAMES.values()):
        table.add_column(name, no_wrap=True)
    dense = widths["dense"]
    for goal in widths["goals"]:
        rows = (_bars(goal[key], dense[key]) for key in ("groups", "channels"))
        table.add_row(goal["goal"], *rows)
    return table


def _bars(kept_widths: Sequence[int], dense: Sequence[int]) -> str:
    """One character per layer: its height is the fraction kept."""
    top = len(_BARS) - 1
    return "".join(
        _BARS[max(1, round(top * width / full))] if width else (_GONE if full else " ")
        for width, full in zip(kept_widths, dense, strict=True)
    )


def _removal(removal: Mapping[str, Any]) -> Table:
    """Sub-blocks by sensitivity, both ends of a long list: what a cut costs, and what every goal keeps."""
    ranked = removal["sensitivity"]
    title = (
        "what was removed, and why: KL of the deepest cut by the table, per million parameters; kept by goal"
    )
    table = _table(title + (f" ({2 * END} of {len(ranked)})" if len(ranked) > 2 * END else ""))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("sub-block", no_wrap=True)
    for name in ("KL", "per mn", "dense", *(goal["goal"] for goal in removal["goals"])):
        table.add_column(name, justify="right", no_wrap=True)
    widths = [{(row["layer"], row["kind"]): row for row in goal["rows"]} for goal in removal["goals"]]
    for row in ranked if len(ranked) <= 2 * END else (*ranked[:END], None, *ranked[-END:]):
        if row is None:
            table.add_row(*["…"] * (5 + len(widths)))
            continue
        table.add_row(
            str(row["rank"]),
            f"{NAMES[row['kind']]} {row['layer']}",
            _number(row["kl"], ".4f"),
            _number(row["kl_per_million"], ".3g"),
            str(row["dense"]),
            *(str(row_by_slot[row["layer"], row["kind"]]["width"]) for row_by_slot in widths),
        )
    return table


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("predictor by round: cross-validated tau and top-10 recall; tau on its own proposals")
    table.add_column("round", justify="right")
    table.add_column("goal")
    table.add_column("predictor")
    for name in ("tau", "recall", "own tau", "evaluated", "seconds", "best KL"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rounds:
        table.add_row(
            str(row["round"]),
            row["goal"] or "all",
            row["predictor"] or "–",
            _number(row["tau"], ".3f"),
            _number(row["top_10_recall"], ".0%"),
            _number(row["proposals_tau"], ".3f"),
            _number(row["proposals"], "d"),
            _number(row["seconds"], ".1f"),
            _number(row["best_kl"], ".4f"),
        )
    return table


def _seconds(seconds: Mapping[str, float]) -> Table:
    table = _table("seconds per stage")
    for name in seconds:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:,.1f}" for value in seconds.values()))
    return table


def _table(title: str) -> Table:
    return Table(
        title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _kl(pair: Mapping[str, Any]) -> str:
    return f"{pair['kl']:.4f} ± {pair['kl_stderr']:.4f}"


def _origin(pair: Mapping[str, Any]) -> str:
    return f"{pair['origin']}, round {pair['round']}" if pair["round"] else pair["origin"]


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"× {value:.3f}"
