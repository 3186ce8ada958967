"""A prune run that kills itself in its search: `python -m benchmarks.gpu_check.killed DEVICE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.gpu_check import pruning
from benchmarks.gpu_check.settings import GPU, PRETEND

KILL_AT = 4

if __name__ == "__main__":
    device, folder = sys.argv[1], Path(sys.argv[2])
    settings = PRETEND if "--pretend" in sys.argv else GPU
    pruning.run(pruning.options(settings, folder / "trained", folder / "killed", device), kill_at=KILL_AT)
