"""A swap with real engines: streams go on, the event loop does not stand still, a restart forgets nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from secateur.cli.commands import run
from secateur.client import CallFailed, Client, RetryPolicy
from secateur.serve.process import ServerProcess, served
from secateur.v1 import models_pb2
from tests.serve.conftest import SMALL
from tests.serve.models.streams import Streams
from tests.waiting import eventually

pytestmark = pytest.mark.slow
pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def options(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    state = tmp_path_factory.mktemp("state")
    return (*SMALL, "--state-dir", str(state), "--roots", str(folders["stock"].parent))


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], options: tuple[str, ...]) -> Iterator[ServerProcess]:
    with served({"m": folders["stock"]}, *options) as running:
        yield running


def test_streams_go_on_through_a_swap_and_back(server: ServerProcess, folders: dict[str, Path]) -> None:
    with Client(server.address, 120) as client, Streams(server.address, "m") as streams:
        streams.answered("1")
        version = client.models.load("m", str(folders["llama"]))
        assert version.state == models_pb2.MODEL_STATE_SERVING and not version.active
        assert version.check.golden_tokens == 16
        assert version.check.tensors_verified and version.check.greatest_difference < 0.01
        assert streams.answers.keys() == {"1"}
        assert client.models.activate("m", version.version).active_version == "2"
        streams.answered("2")
        assert client.models.rollback("m").active_version == "1"
        streams.answered("1")
        assert client.models.activate("m", "2").active_version == "2"
        streams.answered("2")
    assert not streams.failures


def test_the_command_line_shows_it(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--target", server.address)
    assert run(["models", "get", "m", "--json", *target]) == 0
    model = json.loads(capsys.readouterr().out)
    assert (model["active_version"], model["previous_version"]) == ("2", "1")
    assert model["versions"][0]["unload_time"]
    assert run(["models", "list", *target]) == 0
    assert run(["models", "load", "m", "/etc", *target]) == 2
    assert "PERMISSION_DENIED: folder: got /etc, allowed are paths below" in capsys.readouterr().err
    assert run(["models", "alias", "default", "m", *target]) == 0


def test_a_restart_forgets_nothing(
    server: ServerProcess, folders: dict[str, Path], options: tuple[str, ...]
) -> None:
    """Although it was killed."""
    server.process.kill()
    server.process.wait()
    with served({"m": folders["stock"]}, *options) as again, Client(again.address, 60) as client:
        model = client.models.get()
        assert (model.name, model.active_version, model.previous_version) == ("m", "2", "1")
        states = {one.version: one.state for one in model.versions}
        assert states == {"1": models_pb2.MODEL_STATE_UNLOADED, "2": models_pb2.MODEL_STATE_SERVING}
        assert model.architecture == "SecateurForCausalLM"
        engines = [one for one in psutil.Process(again.process.pid).children() if "Engine" in one.name()]
        assert len(engines) == 1
        assert client.complete("", "x", max_tokens=2).model_version == "2"


def _engines(server: ServerProcess) -> list[psutil.Process]:
    return [one for one in psutil.Process(server.process.pid).children() if "Engine" in one.name()]


def _swap_to_and_fro(address: str) -> None:
    with suppress(CallFailed), Client(address, 60, retries=RetryPolicy(attempts=1)) as client:
        client.models.activate("m", "2")
        while True:
            client.models.rollback("m")


def test_an_engine_then_the_server_killed_at_a_load_and_at_swaps(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The load is refused, what was served goes on, and nothing is left of it; then the server is killed."""
    options = (*SMALL, "--state-dir", str(tmp_path), "--roots", str(folders["stock"].parent))
    with ThreadPoolExecutor(1) as pool:
        with served({"m": folders["stock"]}, *options) as server, Client(server.address, 120) as client:
            load = pool.submit(client.models.load, "m", str(folders["llama"]))
            assert eventually(lambda: len(_engines(server)) == 2, 60)
            max(_engines(server), key=lambda one: one.create_time()).kill()
            with pytest.raises(CallFailed) as failure:
                load.result(60)
            assert failure.value.reason == "ENGINE_NOT_STARTED"
            assert client.complete("m", "x", max_tokens=2).model_version == "1"
            assert len(client.models.get("m").versions) == len(_engines(server)) == 1
            load = pool.submit(client.models.load, "m", str(folders["llama"]))
            assert eventually(lambda: len(_engines(server)) == 2, 60)
            server.process.kill()
            assert isinstance(load.exception(60), CallFailed)
        with served({"m": folders["stock"]}, *options) as server, Client(server.address, 120) as client:
            assert [one.version for one in client.models.get("m").versions] == ["1"]
            assert client.models.load("m", str(folders["llama"])).version == "2"
            swaps = pool.submit(_swap_to_and_fro, server.address)
            time.sleep(1.0)
            server.process.kill()
            swaps.result(60)
        with served({"m": folders["stock"]}, *options) as server, Client(server.address, 120) as client:
            model = client.models.get("m")
            assert {model.active_version, model.previous_version} == {"1", "2"}
            assert client.complete("m", "x", max_tokens=2).model_version == model.active_version


def test_the_event_loop_does_not_stand_still(folders: dict[str, Path], tmp_path: Path) -> None:
    arguments = [str(folders["stock"]), str(folders["llama"]), str(tmp_path / "state")]
    command = [sys.executable, "-m", "tests.serve.models.loop_lag", *arguments]
    measured = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(json.dumps(measured))
    assert not measured["failures"] and set(measured["answers"]) == {"1", "2"}
    assert measured["loading"]["p99"] < 50
