"""When a failed call is sent again.

Two mechanisms, each where it is the better one:

- gRPC itself, told by a service config, repeats what never reached a server or was turned away with
  UNAVAILABLE, with exponential back-off and jitter. By its rules a call is never repeated once the first
  message of an answer has arrived. It knows nothing of RetryInfo, and would repeat every
  RESOURCE_EXHAUSTED, also that of a message too large, which stays too large.
- So what a server asks for with a RetryInfo (its queue is full, a model still loads) is repeated here,
  as long as nothing of the answer was delivered and the call's deadline leaves time to wait. A client that
  waits for the server to be ready also waits for the model: that is not counted as an attempt.

Only methods that may run twice are repeated: those in `IDEMPOTENT_METHODS`.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import Any

import grpc

from secateur.client.failures import CallFailed

IDEMPOTENT_METHODS: dict[str, tuple[str, ...]] = {
    "secateur.v1.InferenceService": (),  # all of them
    "secateur.v1.ModelService": (
        "ListModels",
        "GetModel",
        "GetModelVersion",
        "LoadModelVersion",  # joins what goes on, and adds no checkpoint twice
        "ActivateModelVersion",
        "UnloadModelVersion",
        "SetAlias",
    ),
    # A job is made, or run, once: our client gives every such request an id.
    "secateur.v1.PruneService": (
        "ListPruneJobs",
        "GetPruneJob",
        "CreatePruneJob",
        "RunPruneJob",
        "CancelPruneJob",
    ),
    "secateur.v1.BenchmarkService": ("ListBenchmarks", "GetBenchmark"),
    "google.longrunning.Operations": ("ListOperations", "GetOperation"),
    "grpc.health.v1.Health": (),
}
"""Service -> methods that may be sent twice; none named = all."""

RETRY_INFO_CODES = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
LOADING_REASON = "MODEL_LOADING"  # of the ErrorInfo
JITTER = 0.25


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how fast a failed call is sent again.

    Attributes:
        attempts: in all, the first included; 1 = never again. gRPC itself makes at most 5.
        initial_seconds: before the second attempt, give or take the jitter.
        max_seconds: before any attempt, unless the server's RetryInfo says more.
    """

    attempts: int = 4
    initial_seconds: float = 0.1
    max_seconds: float = 5.0

    def backoff(self, failures: int) -> float:
        """Return how long to wait after so many failed attempts (from 1), without jitter."""
        return float(min(self.max_seconds, self.initial_seconds * 2 ** (failures - 1)))

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return what tells gRPC to do its part."""
        if self.attempts < 2:
            return [("grpc.enable_retries", 0)]
        policy = {
            "maxAttempts": min(5, self.attempts),
            "initialBackoff": f"{self.initial_seconds:.3f}s",
            "maxBackoff": f"{self.max_seconds:.3f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        names = [
            {"service": service} | ({"method": method} if method else {})
            for service, methods in IDEMPOTENT_METHODS.items()
            for method in (methods or ("",))
        ]
        config = {"methodConfig": [{"name": names, "retryPolicy": policy}]}
        return [("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(config))]


class RetryState:
    """One call's attempts: what is left of its time, and whether it is worth another."""

    def __init__(
        self, retries: RetryPolicy, method: str, timeout: float, wait_for_ready: bool = False
    ) -> None:
        """Start the clock.

        Args:
            retries: how often.
            method: full name, ``PACKAGE.SERVICE.METHOD``.
            timeout: for all attempts and the waits between them, in seconds.
            wait_for_ready: wait within the timeout for a model that is loading.
        """
        self._retries = retries
        self._repeatable = is_idempotent(method)
        self._deadline = time.monotonic() + timeout
        self._wait_for_ready = wait_for_ready
        self._failures = 0

    def seconds_left(self) -> float:
        """Return what an attempt may take."""
        return max(0.0, self._deadline - time.monotonic())

    def wait_after(self, failure: CallFailed) -> float | None:
        """Return how many seconds to wait before the next attempt; None = give up."""
        if not (self._wait_for_ready and failure.reason == LOADING_REASON):
            self._failures += 1
        if (
            not self._repeatable
            or failure.code not in RETRY_INFO_CODES
            or failure.retry_seconds is None
            or self._failures >= self._retries.attempts
        ):
            return None
        wait = max(failure.retry_seconds, self._retries.backoff(max(1, self._failures)))
        wait *= 1 + JITTER * random.random()  # never before the server wants it
        return wait if wait < self.seconds_left() else None


def is_idempotent(method: str) -> bool:
    """True if a method, given as ``PACKAGE.SERVICE.METHOD``, may be sent twice."""
    service, _, name = method.rpartition(".")
    methods = IDEMPOTENT_METHODS.get(service)
    return methods is not None and (not methods or name in methods)
