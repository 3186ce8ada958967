"""What computes here: the processor or GPU, and with how many threads."""

from __future__ import annotations

import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

from secateur.errors import BackendUnavailable
from secateur.serve.engine.environment import on_cpu, threads_per_engine


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
    named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def thread_count() -> int:
    """Threads that an engine started here alone would compute with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or threads_per_engine(cores, 1))
