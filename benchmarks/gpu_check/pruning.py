"""Prune runs as the steps need them: timed by stage, and killed on the way."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.settings import Settings
from secateur.config.prune import PruneOptions
from secateur.prune.pipeline import prune_all

CORPUS = "pydoc"


@dataclass
class StageSeconds:
    """A reporter that notes when stages began; it can end this process as a power cut would.

    Attributes:
        kill_at: how many steps of a search are reported before the process is killed; None: never.
    """

    kill_at: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    _stage: str = ""
    _began: float = field(default_factory=time.perf_counter)
    _steps: int = 0

    def stage(self, name: str, total: int) -> None:
        self.close()
        self._stage, self._steps = name.partition(" /")[0], 0  # without folders
        print(f"  {name}", flush=True)

    def step(self, note: str = "", count: int = 1) -> None:
        self._steps += count
        if self._stage == "searching" and self._steps == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def close(self) -> None:
        """End the stage that runs."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._began, 2)
        self._began = now


def options(settings: Settings, model: Path, out: Path, device: str, **changes: Any) -> PruneOptions:
    """Of a run for two budgets: its statistics stay beside the study, to be compared."""
    # A machine for checks may lack xgboost: scikit-learn's trees stand in.
    predictor = "auto" if find_spec("xgboost") else "hist-gbdt"
    given: dict[str, Any] = {
        "keep": (0.8, 0.6),
        "corpus": (CORPUS,),
        "window": settings.window,
        "evaluations": settings.evaluations,
        "calibration_tokens": settings.calibration_tokens,
        "search_windows": 8,
        "quantum": 32,
        "predictor": predictor,
        "device": device,
    }
    return PruneOptions(model=str(model), out=out, **(given | changes))


def run(options: PruneOptions, kill_at: int | None = None) -> dict[str, Any]:
    """Prune, and say what came of it: records, seconds per stage, peak memory, waits for the device."""
    reporter = StageSeconds(kill_at)
    on_gpu = options.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    records = prune_all(options, reporter)
    reporter.close()
    found: dict[str, Any] = {
        "seconds": round(time.perf_counter() - started, 2),
        "stages": reporter.seconds,
        "messages": reporter.messages[:4],
        "records": [
            {key: record[key] for key in ("kept_fraction", "search", "slim", "dense", "verified", "out")}
            for record in records
        ],
    }
    if on_gpu:
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found
