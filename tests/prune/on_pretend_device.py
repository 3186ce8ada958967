"""Whole jobs on a device that is none, in a process of their own: torch cannot forget a device again.

    python -m tests.prune.on_pretend_device MODEL TEXT FOLDER JOB [JOB ...]

Prints what each job came to, and what it copied between the host and the device.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from secateur.config.evaluate import EvaluateOptions
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput
from secateur.evaluation import corpus_perplexity
from secateur.evaluation.batch import BatchEvaluator
from secateur.model.compute import Compute
from secateur.model.streaming import StreamedLayers
from secateur.progress import SilentReporter, StageTimer
from secateur.prune import prepared_run
from secateur.prune.pipeline import cut_from_study, prune_all
from secateur.prune.prepared_run import prepare
from tests.evaluation.conformance import random_architectures
from tests.pretend_device import DEVICE, pretend_device

PRETEND = Compute(DEVICE, torch.float32)
STREAMED = Compute(DEVICE, torch.float32, streamed=True)
CPU = Compute.on_cpu(torch.float32)


def main(model: str, text: str, folder: Path, *names: str) -> dict[str, Any]:
    """What came of these jobs, in this order."""
    jobs = all_jobs(model, text, folder)
    return {name: jobs[name]() for name in names}


def all_jobs(model: str, text: str, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every job by its name; evaluations need what "prune" wrote, and "cut" its study."""
    options = PruneOptions(
        model=model,
        out=folder / "slim",
        keep=(0.8, 0.6),
        corpus=(text,),
        evaluations=12,
        window=32,
        calibration_tokens=3200,
        search_windows=8,
        quantum=32,
    )
    cpu = replace(options, out=folder / "cpu", study=None)
    streamed = replace(options, out=folder / "streamed", study=None)
    written = replace(options, keep=(0.7,), corpus=("self",), evaluations=4, out=folder / "self")
    paper = PruneOptions(
        model=model, out=folder / "paper", keep=(0.7,), corpus=(text,), recipe="paper", evaluations=16,
        window=32, calibration_tokens=3200, search_windows=8, quantum=32,
    )  # fmt: skip
    fisher = replace(options, criterion="obs-fisher", keep=(0.7,), evaluations=4, out=folder / "fisher")
    cut = replace(options, keep=(0.7,), out=folder / "cut", study=options.study_url)
    evaluated = EvaluateOptions(
        model=str(folder / "slim" / "0.8"), corpus=(text,), window=32, windows=8, dense=model
    )
    planted_in = replace(options, keep=(0.7,), evaluations=4)
    return {
        "cpu": lambda: job(CPU, lambda: prune_all(cpu, SilentReporter())),
        "prune": lambda: job(PRETEND, lambda: prune_all(options, SilentReporter())),
        "streamed": lambda: job(STREAMED, lambda: prune_all(streamed, SilentReporter())),
        "fetches": lambda: job(STREAMED, lambda: fetches(streamed)),
        "cut": lambda: job(PRETEND, lambda: [cut_from_study(cut, SilentReporter())]),
        "evaluate": lambda: job(PRETEND, lambda: corpus_perplexity.evaluate(evaluated, SilentReporter())),
        "evaluate streamed": lambda: job(
            STREAMED, lambda: corpus_perplexity.evaluate(evaluated, SilentReporter())
        ),
        "evaluate on cpu": lambda: job(CPU, lambda: corpus_perplexity.evaluate(evaluated, SilentReporter())),
        "self": lambda: job(PRETEND, lambda: prune_all(written, SilentReporter())),
        "fisher streamed": lambda: job(
            STREAMED, lambda: prune_all(replace(fisher, out=folder / "no"), SilentReporter())
        ),
        "fisher": lambda: job(PRETEND, lambda: prune_all(fisher, SilentReporter())),
        "paper": lambda: job(PRETEND, lambda: prune_all(paper, SilentReporter())),
        "a planted tensor of the host": lambda: planted(
            replace(planted_in, out=folder / "arange"), lambda losses: losses + torch.arange(losses.shape[1])
        ),
        "a planted wait": lambda: planted(
            replace(planted_in, out=folder / "item"), lambda losses: losses + 0 * losses.sum().item()
        ),
    }


def job(compute: Compute, run: Callable[[], Any]) -> dict[str, Any]:
    """Run a job; its result or error, and what it copied."""
    chosen: Any = lambda *_: compute  # noqa: E731
    found: dict[str, Any] = {}
    with (
        patch.object(prepared_run, "choose_compute", chosen),
        patch.object(corpus_perplexity, "choose_compute", chosen),
        pretend_device() as traffic,
    ):
        try:
            found["result"] = run()
        except (RuntimeError, BadInput) as error:  # the other jobs still tell something
            found["error"] = f"{error}: {traceback.format_exc()[-600:]}"
    return found | {"to_host": dict(traffic.to_host), "to_device": dict(traffic.to_device)}


def fetches(options: PruneOptions) -> dict[str, int]:
    """How many layers come to the device for the dense model and a dozen candidates."""
    prepared = prepare(options, SilentReporter(), StageTimer())
    layers = prepared.library.model.layers
    assert isinstance(layers, StreamedLayers)
    with prepared.evaluator() as evaluator:
        before = layers.fetched
        list(evaluator.losses(random_architectures(prepared.space, 12, seed=1)))
    return {"layers": len(layers), "fetched": layers.fetched - before}


def planted(options: PruneOptions, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """A job with a fault in its evaluator."""
    whole = BatchEvaluator._compare

    def compare(self: BatchEvaluator, *arguments: Any) -> torch.Tensor:
        return change(whole(self, *arguments))

    with patch.object(BatchEvaluator, "_compare", compare):
        return job(PRETEND, lambda: prune_all(options, SilentReporter()))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])))
