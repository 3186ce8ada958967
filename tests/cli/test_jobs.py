"""`secateur jobs`, against a server over a socket whose one job never ends by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2

from secateur.cli.commands import run
from secateur.v1 import prune_pb2, prune_pb2_grpc

NAME = "pruneJobs/endless"
PROGRESS = prune_pb2.PruneProgress(
    stage="searching",
    stage_done=12,
    stage_total=40,
    evaluations_done=30,
    evaluations_total=200,
    best=prune_pb2.FrontPoint(kl=0.1234, kept=0.8),
)


class Bureau(prune_pb2_grpc.PruneServiceServicer):
    """Remembers the jobs it was asked to make."""

    def __init__(self) -> None:
        self.asked: list[prune_pb2.PruneJob] = []

    def CreatePruneJob(self, request: Any, context: grpc.ServicerContext) -> prune_pb2.PruneJob:
        self.asked.append(request.prune_job)
        return prune_pb2.PruneJob(name=NAME, state=prune_pb2.PRUNE_JOB_STATE_CREATED)

    def RunPruneJob(self, request: Any, context: grpc.ServicerContext) -> operations_pb2.Operation:
        return operations_pb2.Operation(name="operations/endless/1")

    def GetPruneJob(self, request: Any, context: grpc.ServicerContext) -> prune_pb2.PruneJob:
        return prune_pb2.PruneJob(name=NAME, state=prune_pb2.PRUNE_JOB_STATE_RUNNING, progress=PROGRESS)

    def WatchPruneJob(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for sequence in (1, 2):
            event = prune_pb2.PruneJobEvent(sequence=sequence, message="on it")
            yield prune_pb2.WatchPruneJobResponse(event=event)
        while context.is_active():
            time.sleep(0.05)


@pytest.fixture
def bureau() -> Iterator[tuple[Bureau, str]]:
    """What it does, and its address."""
    made, server = Bureau(), grpc.server(ThreadPoolExecutor(4))
    prune_pb2_grpc.add_PruneServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_who_leaves_a_watch_knows_how_to_come_back(bureau: tuple[Bureau, str]) -> None:
    """The name is said before anything is waited for."""
    command = ["jobs", "submit", "dense", "--keep", "0.8", "--watch", "--target", bureau[1]]
    process = subprocess.Popen(
        [sys.executable, "-m", "secateur.cli.app", *command], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = [process.stderr.readline() for _ in range(3)]
    time.sleep(0.3)  # the line is out before its event counts as seen; who leaves just then sees it again
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert said == [f"{NAME}: running\n", "[1] on it\n", "[2] on it\n"]
    assert rest.splitlines() == [
        f"{NAME} goes on without you; to watch it again: secateur jobs watch endless --cursor 2 "
        f"--target {bureau[1]}",
        "interrupted",
    ]
    assert process.returncode == 130


def test_progress_is_shown(bureau: tuple[Bureau, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "get", "endless", "--target", bureau[1]]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{NAME}: running",
        "searching 12/40, 30/200 evaluations, best KL 0.1234 at 80.0%",
    ]


@pytest.mark.parametrize("condition", ["--max-perplexity", "--max-perplexity-ratio"])
def test_conditions_are_of_an_activation(
    condition: str, bureau: tuple[Bureau, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["jobs", "submit", "dense", "--keep", "0.8", "--target", bureau[1], condition, "1.5"]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert said == f"error: {condition}: got 1.5: a condition for --activate: give that as well\n"
    assert not bureau[0].asked
    assert run([*command, "--activate", "slim"]) == 0
    asked = bureau[0].asked[0].activation
    assert asked.model == "slim" and getattr(asked, condition[2:].replace("-", "_")) == 1.5


def test_help_says_that_a_model_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "submit", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "active version; made if the server has none of that name" in said
