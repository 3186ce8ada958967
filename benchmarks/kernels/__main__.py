"""Every kernel against its rivals and against the ceilings of the machine.

    python -m benchmarks.kernels [--device cpu|cuda] [--dtype bf16] [--only NAME] [--quick]

Writes benchmarks/results/DEVICE-DATE-kernels.json; never edit that by hand. With --only or --quick
nothing is written.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.host import cpu, gpu, write_result
from benchmarks.kernels import attention, losses, mlps
from benchmarks.kernels.ceilings import Ceilings, best, measure
from benchmarks.kernels.measurement import rows_of
from benchmarks.kernels.row import Row, floor_ms
from benchmarks.kernels.timing import clock

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RIVALS = ("liger-kernel", "cut-cross-entropy")
BUSY = 0.5  # load average from which other jobs are said to have run


def main() -> None:
    arguments = _arguments()
    until = time.monotonic() + 60 * arguments.minutes
    load_before = os.getloadavg()[0]
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
    timer = clock(device, quick=arguments.quick)
    console = Console()
    with torch.inference_mode():
        ceilings = measure(device, dtype, timer)
        _say(console, ceilings)
        rows: list[Row] = []
        cases = [*mlps.cases(), *attention.cases(), *losses.cases()]
        for case in sorted(cases, key=lambda case: case.long):
            if (arguments.only and arguments.only not in case.kernel) or (arguments.quick and case.long):
                continue
            for row in rows_of(case, device, dtype, timer, ceilings, arguments.dtype, until):
                rows.append(row)
                console.print(_line(row), highlight=False)
        # Others may have computed during the first measurement: a ceiling is the best seen.
        ceilings = best(ceilings, measure(device, dtype, timer))
    rows = [replace(row, floor_ms=floor_ms(row.work, ceilings)) for row in rows]
    _say(console, ceilings)
    console.print(_table(rows))
    if arguments.only or arguments.quick:
        return
    load = f"{load_before:.2f} before the run, {os.getloadavg()[0]:.2f} after"
    shared = "other jobs shared the machine" if load_before > BUSY else "no other job was noticed"
    note = f"load average on {os.cpu_count()} cores {load}: {shared}"
    if any(row.ratio is not None and row.ratio > 1 for row in rows):
        note += "; ratios over 1: ceilings were disturbed, neither ratios nor speed-ups can be trusted"
    result = {
        "device": gpu() if device.type == "cuda" else cpu(),
        "versions": _rival_versions(),
        "note": note,
        "threads": torch.get_num_threads(),
        "ceilings": asdict(ceilings),
        "rows": [row.document() for row in rows],
    }
    console.print(str(write_result("kernels", result)))


def _say(console: Console, ceilings: Ceilings) -> None:
    flops, moved = ceilings.flops_per_second / 1e9, ceilings.bytes_per_second / 1e9
    console.print(f"ceilings measured now: {flops:,.0f} GFLOP/s, {moved:,.1f} GB/s")


def _line(row: Row) -> str:
    what = row.skipped or (f"{row.times.median:.2f} ms" if row.times else "")
    return f"{row.kernel} | {row.shape} | {row.provider}: {what}"


def _table(rows: list[Row]) -> Table:
    table = Table(title="kept work only; ratio = floor / median")
    for column in ("kernel", "shape", "provider", "ms", "p20–p80", "floor", "ratio", "error", "gate"):
        table.add_column(column)
    table.add_column("× eager")
    table.add_column("extra MB")
    for row in rows:
        named = [row.kernel, row.shape, row.provider]
        if row.times is None or row.accuracy is None:
            table.add_row(*named, row.skipped or "", "", f"{row.floor_ms:.2f}")
            continue
        table.add_row(
            *named,
            f"{row.times.median:.2f}",
            f"{row.times.p20:.2f}–{row.times.p80:.2f}",
            f"{row.floor_ms:.2f}",
            f"{row.ratio:.0%}",
            f"{row.accuracy.error:.2g}",
            "green" if row.accuracy.green else "RED",
            "" if row.speed_up is None else f"{row.speed_up:.2f}",
            "" if row.extra_bytes is None else f"{row.extra_bytes / 1e6:.0f}",
        )
    return table


def _rival_versions() -> dict[str, str]:
    found = {}
    for name in RIVALS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=here)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--only", help="kernels whose name contains this")
    parser.add_argument("--quick", action="store_true", help="3 samples, without the longest cases")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after these")
    return parser.parse_args()


if __name__ == "__main__":
    main()
