"""Where something was made: the machine, and versions of what computed it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secateur import __version__


def versions() -> dict[str, str]:
    """Versions of Secateur, Python and the libraries that decide numbers."""
    return {
        "secateur": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "optuna")},
    }


def machine() -> dict[str, Any]:
    """The processor as Linux names it, and the cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"cpu": next(names, platform.processor()), "cores": len(os.sched_getaffinity(0))}
