"""Foreign clients, installed once into a folder of the system's temporary one, apart from our packages."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

INSTALL_SECONDS = 480
PYTHON = ("tritonclient[grpc]==2.73.0", "kserve==0.21.0", "protobuf==6.33.6", "buf-bin==1.75.0")
NODE = ("@grpc/grpc-js@1.14.0", "@grpc/proto-loader@0.8.0")


def python_clients() -> Path:
    """Return the ``bin`` folder of an environment with `PYTHON`; skip the test if it cannot be made."""

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)])
        options = ["--disable-pip-version-check", "--quiet", "--retries", "1"]
        _run([str(folder / "bin/python"), "-m", "pip", "install", *options, *PYTHON])

    return _installed("python", PYTHON, install) / "bin"


def node_clients() -> Path:
    """Return a folder whose ``node_modules`` has `NODE`; skip the test if it cannot be made."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")

    def install(folder: Path) -> None:
        folder.mkdir()
        options = ["--no-audit", "--no-fund", "--fetch-retries", "1"]
        _run(["npm", "install", "--prefix", str(folder), *options, *NODE])

    return _installed("node", NODE, install)


def _installed(kind: str, packages: Sequence[str], install: Callable[[Path], None]) -> Path:
    key = hashlib.sha256("\n".join((sys.version, *packages)).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"secateur-clients-{kind}-{key}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            install(folder)
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            pytest.skip(f"{' '.join(packages)} cannot be installed: {said.strip().splitlines()[-1]}")
        complete.touch()
    return folder


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
