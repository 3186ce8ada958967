"""A real server with jobs, in a process of its own that may be killed, and small jobs for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from secateur.client import Client
from secateur.v1 import prune_pb2

SCRIPT = Path(__file__).with_name("server_process.py")


@dataclass
class JobServer:
    """A server of `server_process`; `start` again after `kill` finds the same state."""

    state_dir: Path
    root: Path
    model: Path
    address: str = ""
    process: subprocess.Popen[str] | None = None
    _clients: list[Client] = field(default_factory=list)

    def start(self) -> Client:
        """Start it, and return a client of it."""
        command = [sys.executable, str(SCRIPT), str(self.state_dir), str(self.root), str(self.model)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE"}
        log = (self.state_dir / "server.log").open("a")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.state_dir / "server.log").read_text()
        self.address = json.loads(line)["address"]
        client = Client(self.address, timeout=60)
        self._clients.append(client)
        return client

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it; jobs' processes go on."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)

    def runner(self, job: str) -> int | None:
        """The number of a job's process, as its lock says; the last one's if there is none."""
        file = self.state_dir / "jobs" / job.removeprefix("pruneJobs/") / "runner.lock"
        with suppress(OSError, ValueError):
            return int(json.loads(file.read_text())["pid"])
        return None

    def watches(self, pid: int) -> bool:
        """Whether the server holds a handle (a pidfd) on a process."""
        assert self.process is not None
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            with suppress(OSError):  # closed meanwhile
                if f"\nPid:\t{pid}\n" in info.read_text():
                    return True
        return False

    def kill_runner(self, job: str) -> int:
        """Kill a job's process with SIGKILL; returns its number."""
        pid = self.runner(job)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def close(self) -> None:
        """End everything, jobs as well."""
        for client in self._clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for lock in (self.state_dir / "jobs").glob("*/runner.lock"):
            with suppress(OSError, ValueError, KeyError):
                pid = int(json.loads(lock.read_text())["pid"])
                if b"secateur.serve.jobs.runner" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def small_job(**changes: object) -> prune_pb2.PruneJob:
    """A job of seconds."""
    spec = {
        "model": "dense",
        "keep": [0.7],
        "corpora": ["text.txt"],
        "evaluations": 10,
        "window": 32,
        "calibration_tokens": 3200,
        "search_windows": 4,
        "quantum": 32,
    }
    if "path" in changes:
        del spec["model"]
    return prune_pb2.PruneJob(spec=prune_pb2.PruneSpec(**{**spec, **changes}))  # type: ignore[arg-type]


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
