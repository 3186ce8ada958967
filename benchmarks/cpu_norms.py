"""Decode steps on a CPU with vLLM's own norms and with its kernels (vllm_plugin/cpu_norms.py), in turns.

    python -m benchmarks.cpu_norms DIR [--rounds 12]

One engine, whose norms are switched between turns. Writes benchmarks/results/DEVICE-DATE-cpu-norms.json;
never edit that by hand.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median

from benchmarks.host import cpu, write_result
from secateur.bench.metrics.statistics import ratio_of_rounds
from secateur.bench.models import read_config
from secateur.bench.offline.worker import _decode, _engine
from secateur.config.serve import EngineOptions
from secateur.serve.engine.environment import set_engine_environment
from secateur.vllm_plugin.cpu_norms import CPU_NORMS, NORMS

STEPS = 20
CHOICES = {"torch": ["native"], "kernels": [CPU_NORMS, "native"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_engine_environment(EngineOptions(threads=arguments.threads), 1)
    job = {
        "dtype": "bfloat16",
        "max_model_len": 512,
        "batches": arguments.batch,
        "kv_cache_bytes": {arguments.checkpoint: 512 * 2**20},
        "context": 256,
        "steps": STEPS,
        "vocabulary": read_config(Path(arguments.checkpoint))["vocab_size"],
    }
    engine = _engine(arguments.checkpoint, job)
    result = {
        "device": cpu(),
        "protocol": f"bf16, context 256, {arguments.threads} thread(s), medians of {STEPS} steps, in turns",
        "load_average": os.getloadavg()[0],
        "batches": [_batch(engine, job, batch, arguments.rounds) for batch in arguments.batch],
    }
    print(write_result("cpu-norms", result).read_text(), end="")


def _batch(engine, job: dict, batch: int, rounds: int) -> dict:
    from vllm import ir

    steps: dict[str, list[float]] = {name: [] for name in CHOICES}
    for turn in range(-1, rounds):  # the first one warms up
        for place, (name, priority) in enumerate(CHOICES.items()):
            for operation in NORMS:
                getattr(ir.ops, operation).set_default(priority)
            times = _decode(engine, job, batch, 2 * turn + place + 2)
            if turn >= 0:
                steps[name].append(median(times) / 1e6)
    ratio = ratio_of_rounds(steps["torch"], steps["kernels"])
    assert ratio is not None
    return {
        "batch": batch,
        "step_ms": {name: round(median(values), 3) for name, values in steps.items()},
        "ratio": round(ratio.value, 4),
        "interval": ratio.interval and [round(ratio.interval.low, 4), round(ratio.interval.high, 4)],
        "rounds_ms": {name: [round(value, 3) for value in values] for name, values in steps.items()},
    }


if __name__ == "__main__":
    main()
