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

from secateur.evaluation.workers.crew import NO_TASK, Answer, Death, Task, answer, portable
from secateur.evaluation.workers.spec import WorkerSpec, open_evaluator


class LocalCrew:
    """Processes of this machine.

    Args:
        spec: what they evaluate with.
        size: how many.
        threads: of each for torch; None divides what this process has.
    """

    def __init__(self, spec: WorkerSpec, size: int, *, threads: int | None = None) -> None:
        self._spec = pickle.dumps(
            spec
        )  # not by multiprocessing's own means: they share tensors by descriptor
        self._threads = threads or max(1, torch.get_num_threads() // size)
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[_Hand | None] = [None] * size

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._hands)

    @property
    def pids(self) -> list[int]:
        """Process numbers of those that were started."""
        return [hand.process.pid for hand in self._hands if hand is not None and hand.process.pid is not None]

    def hire(self, worker: int) -> None:
        """Start a process."""
        here, there = self._context.Pipe()
        name = f"worker {worker}"
        process = self._context.Process(
            target=_work, args=(self._spec, there, self._threads, name), name=name, daemon=True
        )
        # Ctrl-C is for the process that started them: a blocked signal stays blocked in what it starts.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            there.close()
        self._hands[worker] = _Hand(process, here)

    def give(self, worker: int, task: Task) -> None:
        """Send a task."""
        hand = self._hands[worker]
        if hand is not None:
            with suppress(OSError):  # it has died; `wait` will tell
                hand.connection.send(task)

    def wait(self) -> Sequence[tuple[int, Answer | Death]]:
        """Wait for answers and deaths."""
        by_object: dict[Any, int] = {}
        for worker, hand in enumerate(self._hands):
            if hand is not None:
                by_object |= {hand.connection: worker, hand.process.sentinel: worker}
        ready = {by_object[item] for item in wait(list(by_object))}
        return [(worker, event) for worker in sorted(ready) for event in self._news(worker)]

    def dismiss(self) -> None:
        """Kill the processes: they keep nothing that could be lost."""
        hands = [hand for hand in self._hands if hand is not None]
        self._hands = [None] * len(self._hands)
        for hand in hands:
            hand.process.kill()
        for hand in hands:
            hand.process.join()
            hand.connection.close()

    def _news(self, worker: int) -> list[Answer | Death]:
        """What a worker has to say; its last words come before its death."""
        hand = self._hands[worker]
        assert hand is not None  # wait() asked those that are there
        try:
            if hand.connection.poll():
                return [hand.connection.recv()]
        except (EOFError, OSError):
            pass
        hand.process.join()
        hand.connection.close()
        self._hands[worker] = None
        return [Death(_cause(hand.process.exitcode))]


class _Hand:
    """A worker as its employer sees it."""

    def __init__(self, process: BaseProcess, connection: Connection[Any, Any]) -> None:
        self.process = process
        self.connection = connection


def _cause(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


def _work(spec: bytes, connection: Connection[Any, Any], threads: int, name: str) -> None:
    """The life of a worker: until it is killed, or who started it is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        evaluator = open_evaluator(pickle.loads(spec))
    except Exception as error:  # whatever it is, it belongs to who asked
        connection.send(Answer(NO_TASK, error=portable(error, name)))
        return
    with suppress(EOFError, OSError):  # who asked is gone
        while True:
            connection.send(answer(evaluator, connection.recv(), name))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    wait([parent.sentinel])
    os._exit(1)
