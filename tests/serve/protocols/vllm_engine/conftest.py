"""The server with one tiny slim model."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.serve.process import ServerProcess


@pytest.fixture(scope="session")
def server(slim_server: ServerProcess) -> ServerProcess:
    return slim_server


@pytest.fixture(scope="session")
def log(slim_log: Path) -> Path:
    return slim_log
