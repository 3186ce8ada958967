"""How much faster are slim models, and how much of what their kept bytes and operations promise?

    python -m benchmarks.speedup dense=DIR slim08=DIR slim05=DIR [--batch 1,8,32] [--rounds 9]

All checkpoints are loaded into one process and take turns (`secateur bench --offline`): decode steps and
prefill by batch. The promise is the ratio of the floors: the longer of bytes over measured bandwidth and
operations over the measured rate of a matrix product. Writes benchmarks/results/DEVICE-DATE-speedup.json;
never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.host import cpu, write_result

ENOUGH = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=DIR", help="the dense one first")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--rounds", default="9")
    parser.add_argument("--input-len", default="256")
    parser.add_argument("--context", default="256")
    parser.add_argument("--threads", default="1")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    found = _offline(arguments)
    result = {
        "device": cpu(),
        "protocol": "secateur bench --offline: vLLM's engine, bf16, all models in one process and in turns, "
        f"{arguments.rounds} rounds, {arguments.threads} thread(s), context {arguments.context}, "
        f"prompts of {arguments.input_len} tokens; speed-up is the mean over rounds of dense / slim",
        "load_average": {"before": before, "after": os.getloadavg()[0]},
        "enough": ENOUGH,
        "reached": all(
            row[kind]["kept_of_promise"] >= ENOUGH
            for row in found["speedups"]
            for kind in ("decode", "prefill")
        ),
        **{key: found[key] for key in ("ceilings", "models", "speedups", "results")},
    }
    print(write_result("speedup", result).read_text(), end="")


def _offline(arguments: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "secateur.cli.app", "bench", "--rounds", arguments.rounds]
    for checkpoint in arguments.checkpoints:
        command += ["--offline", checkpoint]
    for option in ("batch", "input_len", "context", "threads"):
        command += [f"--{option.replace('_', '-')}", getattr(arguments, option)]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        subprocess.run([*command, "--out", str(out)], check=True)
        return json.loads((out / "report.json").read_text())


if __name__ == "__main__":
    main()
