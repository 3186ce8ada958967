"""How a server ends: drained, cut off, or with its engine or itself killed. No process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secateur.client import CallFailed, Client, RetryPolicy, StreamEvent
from secateur.serve.process import read_document, start
from secateur.v1 import models_pb2
from tests.waiting import eventually

pytestmark = pytest.mark.slow

SMALL = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--listen", "127.0.0.1:0")
# Long enough to still be running when the signal arrives.
LONG: dict[str, Any] = {"max_tokens": 450, "temperature": 0.0, "ignore_eos": True}
SERVING, NOT_SERVING = 1, 2


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with its address; killed with all its children at the end, if need be."""
    process = start([*arguments, *SMALL])
    children: list[psutil.Process] = []
    try:
        address = read_document(process)["address"]
        children = psutil.Process(process.pid).children(recursive=True)
        yield process, address
    finally:
        for one in [*children, process]:
            if one.is_running() if isinstance(one, psutil.Process) else one.poll() is None:
                one.kill()
        process.wait()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those not ended; a zombie has ended, whether or not the container's init collects it."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def command_of(process: psutil.Process) -> str:
    """The command line; empty once it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return " ".join(process.cmdline())
    return ""


def health_of(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


class Stream(threading.Thread):
    """A long generation in the background."""

    def __init__(self, address: str, model: str) -> None:
        super().__init__(daemon=True)
        self.address, self.model = address, model
        self.events: list[StreamEvent] = []
        self.failure: CallFailed | None = None
        self.start()
        assert eventually(lambda: bool(self.events))

    def run(self) -> None:
        with Client(self.address, timeout=60) as client:
            try:
                for event in client.generate(self.model, "Once upon a time", **LONG):
                    self.events.append(event)
            except CallFailed as failure:
                self.failure = failure

    @property
    def finish_reason(self) -> int:
        self.join(30)
        assert self.failure is None, self.failure
        return int(self.events[-1].response.finish_reason)


def test_interrupt_drains_and_leaves_nothing_behind(folders: dict[str, Path]) -> None:
    with running(f"llama={folders['llama']}") as (process, address):
        children = psutil.Process(process.pid).children(recursive=True)
        assert alive(children)
        with Client(address, retries=RetryPolicy(attempts=1)) as client:
            client.complete("llama", "x", max_tokens=1)  # connected: the stream below is a matter of a second
            stream = Stream(address, "llama")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: engines get it too
            with pytest.raises(CallFailed, match=r"UNAVAILABLE: .*shutting down"):
                while True:
                    client.complete("llama", "x", max_tokens=1)
            assert health_of(address, "") == NOT_SERVING
        assert stream.finish_reason == 2  # length: it ran to its own end
        assert sum(len(event.token_ids) for event in stream.events) == 450
        assert process.wait(30) == 0
        # multiprocessing's resource tracker ends by itself a moment after the server.
        assert eventually(lambda: not alive(children), 5)


def test_second_interrupt_cuts_off(folders: dict[str, Path]) -> None:
    with running(f"llama={folders['llama']}", "--drain-seconds", "600") as (process, address):
        children = psutil.Process(process.pid).children(recursive=True)
        stream = Stream(address, "llama")
        process.send_signal(signal.SIGINT)
        assert eventually(lambda: health_of(address, "") == NOT_SERVING, 2)
        process.send_signal(signal.SIGINT)
        assert stream.finish_reason == 3  # abort
        assert process.wait(30) == 0
        # multiprocessing's resource tracker ends by itself a moment after the server.
        assert eventually(lambda: not alive(children), 5)


def test_engines_and_server_killed(folders: dict[str, Path]) -> None:
    models = ("stock", "llama")
    with running(*(f"{name}={folders[name]}" for name in models)) as (process, address):
        engines = [p for p in psutil.Process(process.pid).children() if "EngineCore" in p.name()]
        assert len(engines) == 2
        streams = {name: Stream(address, name) for name in models}
        engines[0].kill()
        assert eventually(lambda: health_of(address, "") == NOT_SERVING)
        up = {name: health_of(address, f"model/{name}") == SERVING for name in models}
        assert sorted(up.values()) == [False, True]
        for name in models:
            if up[name]:
                assert streams[name].finish_reason == 2
                continue
            streams[name].join(30)
            failure = streams[name].failure
            assert failure is not None and failure.retry_seconds is None  # nobody is asked to repeat it
            assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "ENGINE_DEAD")
            once = RetryPolicy(attempts=1)
            with Client(address, retries=once) as client, pytest.raises(CallFailed) as refusal:
                client.complete(name, "x")
            assert refusal.value.reason == "ENGINE_RESTARTING" and refusal.value.retry_seconds
            with Client(address) as client:
                assert client.models.get(name).state == models_pb2.MODEL_STATE_RESTARTING
        # It is started again, and everything is as before.
        assert eventually(lambda: health_of(address, "") == SERVING, 90)
        with Client(address) as client:
            assert [client.complete(name, "x", max_tokens=3).model for name in models] == list(models)
        children = psutil.Process(process.pid).children()
        assert len([one for one in children if "EngineCore" in one.name()]) == 2
        process.kill()
        process.wait()
        assert eventually(lambda: not alive(children)), alive(children)


def test_a_request_that_engines_die_of_is_refused(folders: dict[str, Path]) -> None:
    with running(f"llama={folders['llama']}") as (process, address), Client(address, timeout=60) as client:
        for deaths in (1, 2):
            assert eventually(lambda: health_of(address, "") == SERVING, 180)
            poison = Stream(address, "llama")
            (engine,) = [p for p in psutil.Process(process.pid).children() if "EngineCore" in p.name()]
            engine.kill()
            poison.join(30)
            assert poison.failure is not None and poison.failure.reason == "ENGINE_DEAD"
            # The client has sent it once, whatever its policy: else it would have been repeated by now.
            assert client.models.get("llama").counters.aborted_requests == deaths
            assert eventually(lambda: health_of(address, "") == NOT_SERVING)
        assert eventually(lambda: health_of(address, "") == SERVING, 180)
        with pytest.raises(CallFailed, match="died 2 times") as refusal:
            client.complete("llama", "Once upon a time", **LONG)
        assert refusal.value.reason == "REQUEST_SUSPECT"
        assert client.complete("llama", "Once upon a time", max_tokens=3).usage.completion_tokens == 3


def test_interrupt_while_loading(folders: dict[str, Path]) -> None:
    process = start([f"llama={folders['llama']}", *SMALL])
    parent = psutil.Process(process.pid)
    try:
        # Importing vLLM runs a short-lived child or two; loading begins with one that stays.
        assert eventually(lambda: any("spawn_main" in command_of(child) for child in parent.children()), 60)
        time.sleep(1)
        children = parent.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert eventually(lambda: not alive(children)), alive(children)
    finally:
        process.kill()
        process.wait()
