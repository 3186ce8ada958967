"""Workers that are processes of this machine.

They are spawned, not forked: threads of torch do not survive a fork. A worker ends with the process that
started it, however that ends: it watches it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from secateur.evaluation.opening import EvaluatorSpec, open_evaluator
from secateur.evaluation.workers.backend import (
    NO_TASK_ID,
    EvaluationTask,
    TaskResult,
    WorkerDeath,
    picklable_error,
    run_task,
)
from secateur.threads import passive_waiting


class ProcessBackend:
    """Processes of this machine.

    Args:
        spec: what they evaluate with.
        size: how many.
        threads: of each for torch; None divides what this process has.
    """

    def __init__(self, spec: EvaluatorSpec, size: int, *, threads: int | None = None) -> None:
        self._spec = spec
        self._threads = threads or max(1, torch.get_num_threads() // size)
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_WorkerHandle | None] = [None] * size

    @property
    def size(self) -> int:
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Process numbers of those that were started."""
        return [
            handle.process.pid
            for handle in self._workers
            if handle is not None and handle.process.pid is not None
        ]

    def start(self, worker: int) -> None:
        parent_connection, child_connection = self._context.Pipe()
        name = f"worker {worker}"
        process = self._context.Process(
            target=_worker_main,
            # Not by multiprocessing's own means: they share tensors by descriptor.
            args=(pickle.dumps(self._spec.for_worker(worker)), child_connection, self._threads, name),
            name=name,
            daemon=True,
        )
        # Ctrl-C is for the process that started them: a blocked signal stays blocked in what it starts.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with passive_waiting():
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            child_connection.close()
        self._workers[worker] = _WorkerHandle(process, parent_connection)

    def submit(self, worker: int, task: EvaluationTask) -> None:
        handle = self._workers[worker]
        if handle is not None:
            with suppress(OSError):  # it has died; `wait` will tell
                handle.connection.send(task)

    def wait(self) -> Sequence[tuple[int, TaskResult | WorkerDeath]]:
        """Wait for answers and deaths."""
        by_object: dict[Any, int] = {}
        for worker, handle in enumerate(self._workers):
            if handle is not None:
                by_object |= {handle.connection: worker, handle.process.sentinel: worker}
        ready = {by_object[item] for item in wait(list(by_object))}
        return [(worker, event) for worker in sorted(ready) for event in self._poll_events(worker)]

    def stop(self) -> None:
        """Kill the processes: they keep nothing that could be lost."""
        handles = [handle for handle in self._workers if handle is not None]
        self._workers = [None] * len(self._workers)
        for handle in handles:
            handle.process.kill()
        for handle in handles:
            handle.process.join()
            handle.connection.close()

    def _poll_events(self, worker: int) -> list[TaskResult | WorkerDeath]:
        """What a worker has to say; its last words come before its death."""
        handle = self._workers[worker]
        assert handle is not None  # wait() asked those that are there
        try:
            if handle.connection.poll():
                return [handle.connection.recv()]
        except (EOFError, OSError):
            pass
        handle.process.join()
        handle.connection.close()
        self._workers[worker] = None
        return [WorkerDeath(_exit_reason(handle.process.exitcode))]


class _WorkerHandle:
    """A worker as its employer sees it."""

    def __init__(self, process: BaseProcess, connection: Connection[Any, Any]) -> None:
        self.process = process
        self.connection = connection


def _exit_reason(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


def _worker_main(spec: bytes, connection: Connection[Any, Any], threads: int, name: str) -> None:
    """The life of a worker: until it is killed, or who started it is gone."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        evaluator = open_evaluator(pickle.loads(spec))
    except Exception as error:  # whatever it is, it belongs to who asked
        connection.send(TaskResult(NO_TASK_ID, error=picklable_error(error, name)))
        return
    with suppress(EOFError, OSError):  # who asked is gone
        while True:
            connection.send(run_task(evaluator, connection.recv(), name))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    wait([parent.sentinel])
    os._exit(1)
