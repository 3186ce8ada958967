"""A job's process as the server sees it: started, found again after a restart, ended.

Whether there is one is said by a lock on a file of the job's folder, which the kernel drops with the
process, however that ends. In the file stand the process's number and when it was started, so that a signal
never goes to a process that got the same number later.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from secateur.locks import is_locked, try_lock
from secateur.threads import passive_waiting

LOCK = "runner.lock"
LOCKED_EXIT_STATUS = 75  # of a process that found another at the job
STATE_VARIABLE = "SECATEUR_STATE"
_PATIENCE_SECONDS = 10.0  # between SIGTERM and SIGKILL
_TRIES, _TRY_SECONDS = 20, 0.05  # for who looks at a lock at the same time as another


class JobProcess:
    """A process that works on a job.

    Args:
        pid: its number; it leads a session and a process group of its own.
        descriptor: of the process (a pidfd): readable when it is gone, and never another's.
        child: if it was started by us: then its exit status can be known.
    """

    def __init__(self, pid: int, descriptor: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._child = child

    async def gone(self) -> None:
        """Wait until it has ended."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)

    async def end(self) -> None:
        """Ask it to end, kill it if it does not, and wait until it has."""
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.gone(), _PATIENCE_SECONDS)
            return
        self._signal(signal.SIGKILL)
        await self.gone()

    def collect(self) -> int | None:
        """Leave nothing of a process that is gone; returns its exit status, -N for signal N, if known."""
        os.close(self._descriptor)
        if self._child is None:
            return None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # workers that outlived it; nobody else has its number yet
        return self._child.wait()

    def release(self) -> None:
        """Let it go on without us."""
        os.close(self._descriptor)
        if self._child is not None:
            self._child.returncode = 0  # or its destructor would complain

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)


def start_process(folder: Path, number: int, nice: int, device: str, state: str, log: Path) -> JobProcess:
    """Start a process for a job.

    Args:
        folder: the job's own.
        number: of the job in the state database, which has its options.
        nice: how much it stands back for others.
        device: where it computes.
        state: URL of the database it tells its progress to; not on its command line, it may hold a password.
        log: takes what it prints.
    """
    environ = {**os.environ, STATE_VARIABLE: state}
    with log.open("wb") as output, passive_waiting(environ):
        child = subprocess.Popen(
            [sys.executable, "-m", "secateur.serve.jobs.runner", str(folder), str(number), str(nice), device],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,  # neither Ctrl-C nor the end of our terminal is for it
        )
    return JobProcess(child.pid, os.pidfd_open(child.pid), child)


def find_process(folder: Path) -> JobProcess | None:
    """Find the process that works on a job, whoever started it; None if there is none."""
    file = folder / LOCK
    for _ in range(_TRIES):
        if not file.is_file() or not is_locked(file):
            return None
        if (job_process := _opened(file)) is not None:
            return job_process
        time.sleep(_TRY_SECONDS)  # it has the lock, and has not said its number yet
    return None


def acquire_job_lock(folder: Path) -> int | None:
    """Become the process that works on a job until this one ends; None if another is.

    Returns:
        The descriptor that holds the lock, to be kept open.
    """
    for _ in range(_TRIES):
        if (descriptor := try_lock(folder / LOCK)) is not None:
            os.ftruncate(descriptor, 0)
            owner = {"pid": os.getpid(), "started": _started(os.getpid())}
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
            return descriptor
        time.sleep(_TRY_SECONDS)  # a server that looks whether it is locked holds it for an instant
    return None


def _opened(file: Path) -> JobProcess | None:
    """A handle on the process that a lock names; None if it has just ended, or not said its number yet."""
    descriptor = -1
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
        descriptor = os.pidfd_open(owner["pid"])
        if _started(owner["pid"]) == owner["started"]:
            return JobProcess(owner["pid"], descriptor)
    except (OSError, ValueError, KeyError):
        pass
    if descriptor >= 0:
        os.close(descriptor)
    return None


def _started(pid: int) -> int:
    """When a process was started, in the kernel's ticks; -1 where there is none."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return -1
