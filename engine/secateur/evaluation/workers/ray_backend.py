"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from secateur.errors import BackendUnavailable, BadInput
from secateur.evaluation.measurement import Evaluator
from secateur.evaluation.opening import EvaluatorSpec, open_evaluator
from secateur.evaluation.workers.backend import (
    NO_TASK_ID,
    EvaluationTask,
    TaskResult,
    WorkerDeath,
    picklable_error,
    run_task,
)

LOCAL = "local"


class RayBackend:
    """Actors of a Ray cluster, one per CPU (or GPU, on such) that it has unless told otherwise.

    The model and the calibration folder must be there, by the same names, on every machine of the cluster.

    Args:
        spec: what they evaluate with.
        address: of the cluster: ``auto`` for one that runs here, ``local`` for a new one of this machine
            only, ``ray://HOST:PORT`` or ``HOST:PORT``.
        size: how many actors; None takes one per CPU, or per GPU.

    Raises:
        BackendUnavailable: Ray is not installed.
        BadInput: there is no such cluster.
    """

    def __init__(self, spec: EvaluatorSpec, address: str, size: int | None = None) -> None:
        self._ray = _connected(address)
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        self._gpus = int(spec.library.compute.accelerated)
        if self._gpus and not gpus:
            raise BadInput(
                "ray", address, f"the cluster has no GPU, and `device` is {spec.library.compute.device}"
            )
        self._size = size or max(1, gpus if self._gpus else cpus)
        self._threads = max(1, cpus // self._size)
        self._spec = self._ray.put(spec.for_worker(0))  # Ray shows an actor its own devices alone
        self._actors: list[Any] = [None] * self._size
        self._pending: dict[Any, tuple[int, EvaluationTask | None]] = {}

    @property
    def size(self) -> int:
        return self._size

    def start(self, worker: int) -> None:
        """Start an actor; it is waited for with the others."""
        kind = self._ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_restarts=0)(_Actor)
        actor = kind.remote(self._spec, self._threads, f"worker {worker}")
        self._actors[worker] = actor
        self._pending[actor.ready.remote()] = (worker, None)

    def submit(self, worker: int, task: EvaluationTask) -> None:
        self._pending[self._actors[worker].work.remote(task)] = (worker, task)

    def wait(self) -> Sequence[tuple[int, TaskResult | WorkerDeath]]:
        """Wait for answers and deaths."""
        events: list[tuple[int, TaskResult | WorkerDeath]] = []
        while not events:
            (done, *_), _ = self._ray.wait(list(self._pending), num_returns=1)
            worker, _ = self._pending.pop(done)
            try:
                result = self._ray.get(done)
            except self._ray.exceptions.RayActorError as error:
                self._drop_pending(worker)
                events.append((worker, WorkerDeath(" ".join(str(error).split())[:200])))
            else:
                if result is not None:
                    events.append((worker, result))
        return events

    def stop(self) -> None:
        """Kill the actors: they keep nothing that could be lost."""
        for actor in self._actors:
            if actor is not None:
                self._ray.kill(actor)
        self._actors = [None] * self._size
        self._pending.clear()

    def _drop_pending(self, worker: int) -> None:
        """Whatever else was sent to an actor that died comes to nothing: a death is told once."""
        self._pending = {ref: entry for ref, entry in self._pending.items() if entry[0] != worker}


class _Actor:
    """A worker; what it runs on is Ray's business."""

    def __init__(self, spec: EvaluatorSpec, threads: int, name: str) -> None:
        torch.set_num_threads(threads)
        self._name = name
        self._evaluator: Evaluator | None = None
        self._error: Exception | None = None
        try:
            self._evaluator = open_evaluator(spec)
        except Exception as error:  # whatever it is, it belongs to who asked
            self._error = picklable_error(error, name)

    def ready(self) -> TaskResult | None:
        """Nothing, or why it could not begin."""
        return None if self._error is None else TaskResult(NO_TASK_ID, error=self._error)

    def work(self, task: EvaluationTask) -> TaskResult:
        if self._evaluator is None:
            return TaskResult(NO_TASK_ID, error=self._error)
        return run_task(self._evaluator, task, self._name)


def _connected(address: str) -> Any:
    """Ray, connected to a cluster."""
    if find_spec("ray") is None:
        raise BackendUnavailable(
            "`ray`: Ray is not installed: pip install '.[ray]' in a checkout of secateur"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    import ray

    if not ray.is_initialized():
        options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadInput("ray", address, f"no cluster answers: {reason}") from error
    return ray
