"""The server with one tiny slim model, and the protocol's calls to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from secateur.serve.process import ServerProcess
from tests.serve.protocols.open_inference.calls import Calls


@pytest.fixture(scope="session")
def server(slim_server: ServerProcess) -> ServerProcess:
    return slim_server


@pytest.fixture(scope="session")
def log(slim_log: Path) -> Path:
    return slim_log


@pytest.fixture
def calls(server: ServerProcess) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield Calls(channel)
