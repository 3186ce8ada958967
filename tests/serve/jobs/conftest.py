"""Servers with jobs, a shared one and some to be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secateur.client import Client
from tests.serve.jobs.running import JobServer


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, english: str) -> Path:
    """The folder that clients may name files in: ``text.txt``."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "text.txt").write_text(english[:24_000])
    return folder.resolve()


@pytest.fixture(scope="session")
def make_server(
    tmp_path_factory: pytest.TempPathFactory, root: Path, tiny_llama: Path
) -> Iterator[Callable[[], JobServer]]:
    """Make servers, each with a state of its own, that are gone at the end."""
    servers: list[JobServer] = []

    def make() -> JobServer:
        servers.append(JobServer(tmp_path_factory.mktemp("state"), root, tiny_llama))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def job_server(make_server: Callable[[], JobServer]) -> JobServer:
    """A server for tests that do not end it."""
    server = make_server()
    server.start()
    return server


@pytest.fixture
def jobs(job_server: JobServer) -> Iterator[Client]:
    with Client(job_server.address, timeout=60) as client:
        yield client
