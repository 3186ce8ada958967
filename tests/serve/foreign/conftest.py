"""One server with one tiny slim model for all foreign clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from secateur.serve.process import ServerProcess, served

SMALL = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8")


@pytest.fixture(scope="package")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("server")
    log = folder / "stderr.txt"
    with log.open("w") as stderr:
        try:
            with served(
                {"slim": folders["llama"]}, *SMALL, "--state-dir", str(folder), stderr=stderr
            ) as running:
                yield running
        finally:
            print(log.read_text())
