"""Check all of Secateur that needs a GPU, in at most five minutes, without a network.

    make gpu-check [ARGS="--only prune"]        or: python -m benchmarks.gpu_check

    --only STEP    one step (repeatable): machine, tests, kernels, prune, judge, large
    --pretend      the same steps, small, on the CPU: checks this script
    --wheels DIR   packages that are not installed (optuna and what it needs) are taken from there
    --out FILE     the result; written again after every step (benchmarks/results/DEVICE-DATE-gpu-check.json)

Each step is a process of its own: one that fails, hangs or breaks the GPU's context ends alone. Exit status
is 0 if all steps ran and held what they check.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.settings import GPU, LIMITS, MINUTES, PRETEND, Settings
from benchmarks.host import ROOT, write_result


def main() -> int:
    arguments = _arguments()
    settings = PRETEND if arguments.pretend else GPU
    if arguments.step:
        return _run_here(arguments.step, settings, arguments.folder, arguments.out)
    document: dict[str, Any] = {"pretend": arguments.pretend, "settings": asdict(settings), "steps": {}}
    names = arguments.only or list(LIMITS)
    until = time.monotonic() + (math.inf if arguments.pretend else 60 * MINUTES)
    with tempfile.TemporaryDirectory(dir=_roomy(), prefix="secateur-gpu-check-") as folder:
        environment = _environment(arguments.wheels, Path(folder))
        for name in names:
            limit = min(LIMITS[name], max(1.0, until - time.monotonic()))
            document["steps"][name] = _run_apart(name, limit, Path(folder), arguments.pretend, environment)
            document["ok"] = _ok(document["steps"])
            _write(document, arguments.out)
    return 0 if document["ok"] and len(names) == len(document["steps"]) else 1


def _run_here(name: str, settings: Settings, folder: Path, out: Path) -> int:
    from benchmarks.gpu_check.steps import STEPS

    found = STEPS[name](settings, folder)
    out.write_text(json.dumps(found))
    return 0


def _run_apart(
    name: str, limit: float, folder: Path, pretend: bool, environment: dict[str, str]
) -> dict[str, Any]:
    """A step in a process of its own, its seconds, and why it failed if it did.

    Args:
        limit: seconds after which it is killed, with what it started.
    """
    print(f"== {name}", flush=True)
    file = folder / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--step", name, "--folder", str(folder)]
    command += ["--out", str(file), *(["--pretend"] if pretend else [])]
    errors = folder / f"{name}.stderr"
    started = time.perf_counter()
    failure: str | None = None
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            failure = None if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            failure = f"ended after {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    found["step_seconds"] = round(time.perf_counter() - started, 1)
    if failure is not None:
        found["failure"] = [failure, *errors.read_text(errors="replace").strip().splitlines()[-12:]]
    why = f": {' | '.join(found['failure'])[-600:]}" if failure else ""
    print(f"   {found['step_seconds']} s{why}", flush=True)
    return found


def _ok(steps: dict[str, dict[str, Any]]) -> bool:
    """Whether no step failed, and all held what they check."""

    def held(found: dict[str, Any]) -> bool:
        checked = found.get("ok", True)
        return "failure" not in found and (
            all(checked.values()) if isinstance(checked, dict) else bool(checked)
        )

    return all(held(found) for found in steps.values())


def _write(document: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=2) + "\n")
    elif not document["pretend"]:
        print(f"   {write_result('gpu-check', document)}", flush=True)


def _environment(wheels: Path | None, folder: Path) -> dict[str, str]:
    """That of the steps: source roots, no hub, compiled kernels, and packages from a folder of wheels."""
    roots = [str(ROOT / "engine"), str(ROOT / "kernels"), str(ROOT)]
    if wheels is not None:
        site = folder / "site"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        files = [str(file) for file in sorted(wheels.glob("*.whl"))]
        subprocess.run([*command, "--target", str(site), *files], check=True)
        roots.append(str(site))
    path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "0"}


def _roomy() -> str | None:
    """Shared memory if 40 GB are free there: the large model need not pass through a disk."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > 40e9 else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(LIMITS))
    parser.add_argument("--pretend", action="store_true")
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=list(LIMITS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
