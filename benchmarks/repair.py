"""What repair is worth: slim models between one-shot (0) and in-sequence (1), on text that no fit saw.

    python -m benchmarks.repair --data DIR --study STUDY CHECKPOINT [CHECKPOINT ...]

The study and the checkpoints are those of a `secateur prune` on wikitext2/valid.txt: its statistics and
windows are used again, and the architectures of the checkpoints. Mean NLL on the validation windows of the
study and on ptb/valid.txt. Writes benchmarks/results/DEVICE-DATE-repair.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.host import cpu, write_result
from secateur.calibrate.corpus import cut_windows, load_corpus
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.model.forward import mean_nll
from secateur.progress import StageTimer
from secateur.prune.pipeline import options_of_study
from secateur.prune.prepared_run import prepare
from secateur.prune.surgery import build_slim_model, interpolate, repair_in_sequence

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PTB_WINDOWS = 128


class Printer:
    """Prints what is going on."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins."""
        print(name, flush=True)

    def step(self, note: str = "", count: int = 1) -> None:
        """Steps are not worth a line."""

    def message(self, line: str) -> None:
        """A line of its own."""
        print(line, flush=True)


def main() -> None:
    arguments = _arguments()
    prepared = prepare(
        options_of_study(str(arguments.study), {"out": "unused", "keep": "0.5"}), Printer(), StageTimer()
    )
    ptb = load_corpus(str(arguments.data / "ptb/valid.txt"))
    split, window = prepared.split, prepared.options.window
    unseen = {
        "wikitext2": split.validation,
        "ptb": cut_windows(ptb, prepared.source.tokenizer(), window, PTB_WINDOWS),
    }
    records = [json.loads((folder / "secateur.json").read_text()) for folder in arguments.checkpoints]
    architectures = [Architecture.from_json(record["architecture"]) for record in records]
    started = time.perf_counter()
    with torch.inference_mode():
        cuts = [build_slim_model(prepared.library, architecture) for architecture in architectures]
        fitted = repair_in_sequence(prepared.library, architectures, split.repair)
        seconds = time.perf_counter() - started
        rows = {
            f"{record['kept_fraction']['non_embedding']:.3f}": {
                str(share): _nll(
                    replace(one_shot, layers=tuple(interpolate(one_shot.layers, in_sequence.layers, share))),
                    unseen,
                )
                for share in SHARES
            }
            for record, one_shot, in_sequence in zip(records, cuts, fitted, strict=True)
        }
    result = {
        "device": cpu(),
        "protocol": "SmolLM2-135M-Instruct on WikiText-2 valid; one-shot from statistics, in sequence from "
        "repair windows; mean NLL of unseen windows, nats per token, by fraction of non-embedding parameters "
        "kept and share",
        "tokens": {
            "statistics": split.statistics.numel(),
            "repair": split.repair.numel(),
            **{name: windows.numel() for name, windows in unseen.items()},
        },
        "dense_nll": _nll(prepared.library.model, unseen),
        "rows": rows,
        "seconds_of_fitting_all": round(seconds, 1),
    }
    print(write_result("repair", result).read_text(), end="")


def _nll(model: DecoderModel, unseen: dict[str, Tensor]) -> dict[str, Any]:
    fast = model.to(torch.bfloat16)
    return {name: round(mean_nll(fast, windows), 4) for name, windows in unseen.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    return parser.parse_args()


if __name__ == "__main__":
    main()
