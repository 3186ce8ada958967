"""How time and memory of `secateur prune` grow with the model: random weights of known shapes.

    python -m benchmarks.growth --work EMPTY [--only 135M,360M] [--evaluations 12]

Every shape is written to a folder of WORK in bf16 and pruned to 0.8 in a process of its own, beside what
`--dry-run` says of it. Memory is RssAnon of the process and its children (what is memory-mapped is the
system's to drop), looked at every 0.2 s, by the stage that was reported; the peak resident set of the
process alone is given too (ru_maxrss, mapped pages included). Writes
benchmarks/results/DEVICE-DATE-growth.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.host import cpu, write_result
from secateur.checkpoint.source import DEFAULT_MODEL, open_source
from secateur.config.prune import PruneOptions
from secateur.prune.pipeline import prune
from secateur.prune.prepared_run import plan_for

KEEP = 0.8


@dataclass(frozen=True)
class Shape:
    """Of a Llama with a tied head and the vocabulary of SmolLM2."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int


SHAPES = {
    "135M": Shape(576, 1536, 30, 9, 3),
    "360M": Shape(960, 2560, 32, 15, 5),
    "1B": Shape(2048, 8192, 16, 32, 8),
    "3B": Shape(3072, 8192, 28, 24, 8),
}


class Watch:
    """A reporter that notes the peak of memory in each stage."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._stage, self._done = "loading", threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stage(self, name: str, total: int) -> None:
        """A stage begins; numbers and paths in its name are left out."""
        print(f"{self._stage}: {self.peaks.get(self._stage, 0) / 1e9:.2f} GB", flush=True)
        self._stage = re.sub(r"[\d.,]+ |/\S+ ?", "", name).strip()

    def step(self, note: str = "", count: int = 1) -> None:
        """Steps say nothing of memory."""

    def message(self, line: str) -> None:
        """A line of its own."""
        print(line, flush=True)

    def close(self) -> None:
        """Stop looking."""
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.2):
            self.peaks[self._stage] = max(self.peaks.get(self._stage, 0), _anonymous_bytes(os.getpid()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="135M,360M,1B")
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--calibration-tokens", type=int, help="fewer than by default, for a look")
    arguments = parser.parse_args()
    rows = {}
    for name in arguments.only.split(","):
        rows[name] = _row(SHAPES[name], arguments.work.absolute() / name, arguments)
        result = {
            "device": cpu(),
            "protocol": f"random weights in bf16, {KEEP} kept, {arguments.evaluations} evaluations, other "
            "options by default; memory: RssAnon of the process and its children, GB",
            "threads": torch.get_num_threads(),
            "rows": rows,
        }
        print(write_result("growth", result))


def _row(shape: Shape, place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    place.mkdir(parents=True)
    parameters = _write_model(shape, place / "dense")
    options = {
        "model": str(place / "dense"),
        "out": place / "slim",
        "keep": (KEEP,),
        "evaluations": arguments.evaluations,
        "calibration_tokens": arguments.calibration_tokens,
    }
    row = {
        "shape": asdict(shape),
        "parameters": parameters,
        "weights_gigabytes": round(2 * parameters / 1e9, 3),
    }
    row["calibration_tokens"] = PruneOptions(**options).evaluation_budget.calibration_tokens
    row["load_before"] = os.getloadavg()[0]
    row["planned"] = plan_for(PruneOptions(**options))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        row |= pool.submit(_measure, options).result()
    row["limit_gigabytes"] = round(2.5 * row["weights_gigabytes"] + 3, 2)
    row["peak_gigabytes"] = max(row["peak_gigabytes_by_stage"].values())
    shutil.rmtree(place)
    return row


def _measure(options: dict[str, Any]) -> dict[str, Any]:
    watch, started = Watch(), time.perf_counter()
    record = prune(PruneOptions(**options), watch)
    watch.close()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_by_stage": record["seconds"],
        "peak_gigabytes_by_stage": {name: round(size / 1e9, 3) for name, size in watch.peaks.items()},
        "peak_resident_gigabytes": round(resident / 1e9, 3),
    }


def _anonymous_bytes(process: int) -> int:
    """RssAnon of a process and all below it."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return (int(found.group(1)) * 1024 if found else 0) + sum(_anonymous_bytes(int(one)) for one in children)


def _write_model(shape: Shape, folder: Path) -> int:
    """A Llama with random weights and SmolLM2's tokenizer; returns how many parameters it has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = open_source(DEFAULT_MODEL).tokenizer()
    config = LlamaConfig(
        **asdict(shape), vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, dtype=torch.bfloat16,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


if __name__ == "__main__":
    main()
