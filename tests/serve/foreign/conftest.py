"""The server with one tiny slim model, for all foreign clients."""

from __future__ import annotations

import pytest

from secateur.serve.process import ServerProcess


@pytest.fixture(scope="session")
def server(slim_server: ServerProcess) -> ServerProcess:
    return slim_server
