"""The steps, most telling first. Each runs in a process of its own and returns what it found."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check import models
from benchmarks.gpu_check.settings import Settings
from benchmarks.host import ROOT

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "scikit-learn",
    "scipy",
    "optuna",
    "xgboost-cpu",
    "safetensors",
)
OURS = ("linear_", "masked_", "nested_", "gated_")  # providers of the kernels' benchmark
KL_TOLERANCE = 0.02  # of a GPU's against a CPU's


def machine(settings: Settings, folder: Path) -> dict[str, Any]:
    """What it runs on, and with which versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "versions": {}}
    for name in PACKAGES:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            found["versions"][name] = None
    if settings.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["device"] = {
            "name": properties.name,
            "bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability()),
            "cuda": torch.version.cuda,
        }
    return found


def tests(settings: Settings, folder: Path) -> dict[str, Any]:
    """The kernels' own tests, compiled; where there is no GPU, whether they are found."""
    few = [] if settings.device == "cuda" else ["--collect-only"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "tests/kernels",
        *few,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {
        "ok": done.returncode == 0,
        "summary": lines[-1] if lines else done.stderr[-300:],
        "failed": failed[:40],
    }


def kernels(settings: Settings, folder: Path) -> dict[str, Any]:
    """Both tilings of every kernel at the shapes of models, beside cuBLAS, SDPA and what others publish."""
    from benchmarks.kernels.models import rows

    found = rows(settings.device, seconds=60 * settings.kernel_minutes, pretend=settings.device == "cpu")
    wrong = [row for row in found if row.get("gate") == "red" and row["provider"].startswith(OURS)]
    broken = [
        row
        for row in found
        if row.get("skipped", "").startswith("failed") and row["provider"].startswith(OURS)
    ]
    for row in found:
        if "tflops" in row:
            what = f"{row['model']} {row['kernel']}, {row['provider']}"
            print(
                f"  {what}: {row['tflops']:.3g} TFLOP/s, {row['share_of_peak']:.0%} of the peak", flush=True
            )
    return {"ok": not wrong and not broken, "rows": found}


def prune(settings: Settings, folder: Path) -> dict[str, Any]:
    """A model that has learnt something, pruned on the CPU and the device alike; and again, to the bit."""
    from benchmarks.gpu_check import pruning  # needs optuna, which a machine for checks may lack

    trained = folder / "trained"
    found: dict[str, Any] = {"model": models.train(settings, trained)}
    runs = {"cpu": "cpu", "device": settings.device, "again": settings.device}
    for name, device in runs.items():
        found[name] = pruning.run(pruning.options(settings, trained, folder / name, device))
        print(f"  {name}: {found[name]['seconds']} s", flush=True)
    found["killed"] = _killed_and_resumed(settings, folder)
    measured = {name: _measurements(folder, name) for name in (*runs, "killed")}
    found["orders"] = _agreement_of_orders(folder, "cpu", "device")
    shared = measured["cpu"].keys() & measured["device"].keys()
    apart = [
        abs(measured["device"][item] - measured["cpu"][item]) / max(measured["cpu"][item], 1e-9)
        for item in shared
    ]
    found["kl"] = {"shared": len(shared), "largest": max(apart), "mean": sum(apart) / len(apart)}
    found["ok"] = {
        "kl as on the cpu": found["kl"]["largest"] <= KL_TOLERANCE,
        "again to the bit": measured["device"] == measured["again"],
        "killed and resumed to the bit": measured["device"] == measured["killed"],
        "same best": all(
            math.isclose(
                one["slim"]["perplexity"]["validation"],
                other["slim"]["perplexity"]["validation"],
                rel_tol=0.02,
            )
            for one, other in zip(found["cpu"]["records"], found["device"]["records"], strict=True)
        ),
    }
    return found


def judge(settings: Settings, folder: Path) -> dict[str, Any]:
    """Transformers alone, on the device, finds the loss of a pruned model that Secateur finds."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from secateur.calibrate.corpus import cut_windows, load_corpus
    from secateur.config.evaluate import EvaluateOptions
    from secateur.evaluation.corpus_perplexity import evaluate
    from secateur.progress import SilentReporter

    slim = folder / "device" / "0.8"
    ours = evaluate(
        EvaluateOptions(
            model=str(slim),
            corpus=("pydoc:test",),
            window=settings.window,
            windows=8,
            dense="",
            device=settings.device,
        ),
        SilentReporter(),
    )
    tokenizer = AutoTokenizer.from_pretrained(slim, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(slim, trust_remote_code=True).to(settings.device).eval()
    windows = cut_windows(load_corpus("pydoc:test"), tokenizer, settings.window, 8).to(settings.device)
    with torch.inference_mode():
        theirs = math.exp(float(model(windows, labels=windows).loss))
    (mine,) = ours["perplexity"].values()
    return {"secateur": mine, "transformers": theirs, "ok": math.isclose(mine, theirs, rel_tol=0.02)}


def large(settings: Settings, folder: Path) -> dict[str, Any]:
    """A random model of 8B, pruned: seconds per stage, peak memory, waits for the device."""
    from benchmarks.gpu_check import pruning  # needs optuna, which a machine for checks may lack

    model = folder / "large"
    started = time.perf_counter()
    found: dict[str, Any] = {"model_bytes": models.make_random(settings.large, settings.device, model)}
    found["made_seconds"] = round(time.perf_counter() - started, 1)
    options = pruning.options(
        settings,
        model,
        folder / "large-slim",
        settings.device,
        keep=(0.8,),
        evaluations=settings.large_evaluations,
        calibration_tokens=settings.large_calibration_tokens,
        search_windows=None,
        quantum=64,
    )
    with _counted_waits(settings.device) as waits:
        found |= pruning.run(options)
    found["waits"] = waits
    return found


@contextmanager
def _counted_waits(device: str) -> Iterator[Counter[str]]:
    """Counts the waits of the host for a GPU, by file and line, as torch's debug mode tells of them."""
    counts: Counter[str] = Counter()
    if device != "cuda":
        yield counts
        return

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            counts[f"{'/'.join(Path(filename).parts[-2:])}:{lineno}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield counts
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _killed_and_resumed(settings: Settings, folder: Path) -> dict[str, Any]:
    """A run that is killed in its search, then begun again."""
    from benchmarks.gpu_check import pruning  # needs optuna, which a machine for checks may lack

    command = [sys.executable, "-m", "benchmarks.gpu_check.killed", settings.device, str(folder)]
    if settings.device == "cpu":
        command.append("--pretend")
    killed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    trials = len(_measurements(folder, "killed"))
    resumed = pruning.run(pruning.options(settings, folder / "trained", folder / "killed", settings.device))
    return {"status": killed.returncode, "trials": trials, "stderr": killed.stderr[-300:], **resumed}


def _measurements(folder: Path, name: str) -> dict[str, float]:
    """KL by architecture, of a study."""
    from secateur.study.view import view_study

    view = view_study(str(folder / f"{name}.study"))
    return {trial.architecture.digest: trial.measurement.kl for trial in view.trials}


def _agreement_of_orders(folder: Path, one: str, other: str) -> dict[str, float]:
    """How alike two rankings are: the share of the better half of one that the other has, per kind."""
    from secateur.calibrate.calibration import Calibration

    orders = [Calibration(folder / f"{name}.study" / "calibration").orders for name in (one, other)]
    shares: dict[str, list[float]] = {}
    for (layer, kind), order in orders[0].items():
        half = max(1, len(order) // 2)
        same = set(order[:half].tolist()) & set(orders[1][layer, kind][:half].tolist())
        shares.setdefault(kind, []).append(len(same) / half)
    return {kind: sum(values) / len(values) for kind, values in shares.items()}


STEPS: Mapping[str, Callable[[Settings, Path], dict[str, Any]]] = {
    "machine": machine,
    "tests": tests,
    "kernels": kernels,
    "prune": prune,
    "judge": judge,
    "large": large,
}
