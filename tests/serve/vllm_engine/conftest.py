"""One server with one tiny slim model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from secateur.serve.process import ServerProcess, served

SMALL = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8")


@pytest.fixture(scope="package")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the server writes to stderr."""
    return tmp_path_factory.mktemp("server") / "stderr.txt"


@pytest.fixture(scope="package")
def server(folders: dict[str, Path], log: Path) -> Iterator[ServerProcess]:
    pytest.importorskip("vllm")
    with log.open("w") as stderr:
        try:
            with served(
                {"slim": folders["llama"]}, *SMALL, "--state-dir", str(log.parent), stderr=stderr
            ) as running:
                yield running
        finally:
            print(log.read_text())
