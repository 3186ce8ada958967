"""The engine's own speed as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from secateur.report.bench_tables import number


def offline_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Speeds beside their floors; then every other model beside the first."""
    yield _speeds(document["results"], document["ceilings"])
    if document["speedups"]:
        yield _speedups(document["speedups"])


def _speeds(results: Sequence[Mapping[str, Any]], ceilings: Mapping[str, int]) -> Table:
    read = ceilings["bandwidth_bytes_per_second"] / 1e9
    rate = ceilings["flops_per_second"] / 1e9
    table = Table(
        title=f"vLLM's engine; measured here: {read:.1f} GB/s read, {rate:,.0f} GFLOP/s", title_justify="left"
    )
    for name in ("batch", "model"):
        table.add_column(name)
    for name in ("decode step, ms", "tokens/s", "bandwidth floor, ms", "× floor"):
        table.add_column(name, justify="right")
    for name in ("prefill, tokens/s", "× floor"):
        table.add_column(name, justify="right")
    for row in results:
        decode, prefill = row["decode"], row["prefill"]
        table.add_row(
            str(row["batch"]),
            row["model"],
            _with_interval(decode["step_ms"], decode["interval_ms"]),
            number(decode["tokens_per_second"]),
            number(decode["bandwidth_floor_ms"]),
            f"{decode['times_bandwidth_floor']:.2f}",
            number(prefill["tokens_per_second"]),
            f"{prefill['times_floor']:.2f}",
        )
    return table


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    around = f" ±{number((interval[1] - interval[0]) / 2)}" if interval else ""
    return f"{number(value)}{around}"


def _speedups(speedups: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title="times as fast as the first, in turns [95 % interval]; promised by bytes and operations kept",
        title_justify="left",
    )
    for name in ("batch", "models"):
        table.add_column(name)
    for name in ("decode", "promised", "kept", "prefill", "promised", "kept"):
        table.add_column(name, justify="right")
    for row in speedups:
        cells = [str(row["batch"]), f"{row['first']} / {row['second']}"]
        for kind in ("decode", "prefill"):
            speedup = row[kind]
            low, high = speedup["interval"] or ("?", "?")
            cells += [
                f"{speedup['speedup']:.3f} [{low}, {high}]"
                + ("" if speedup["differ"] else ": no difference"),
                f"{speedup['promised']:.3f}",
                f"{speedup['kept_of_promise']:.0%}",
            ]
        table.add_row(*cells)
    return table
