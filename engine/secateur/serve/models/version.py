"""One version of a model: its state, the engine behind it, and what it has done so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from google.rpc import code_pb2

from secateur.config.serve import EngineOptions
from secateur.serve.engine.engine import Engine
from secateur.serve.engine.stats import EngineCheckResult
from secateur.serve.failures import RpcError, unavailable
from secateur.serve.guard.call import current_call
from secateur.serve.models.checkpoint import Checkpoint
from secateur.serve.models.suspects import Suspects, fingerprint
from secateur.serve.observe.traces import trace_request

LOADING_RETRY_SECONDS = 5.0


class VersionState(Enum):
    """What a version is doing; the values are those of ``secateur.v1.ModelState``."""

    LOADING = 1
    SERVING = 2
    DRAINING = 3
    FAILED = 4
    UNLOADED = 5
    RESTARTING = 6


@dataclass
class VersionTotals:
    """Counts since start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0


class RequestTracker:
    """One request in flight; once the engine has it, it is aborted unless it is said to be `complete`."""

    def __init__(self, totals: VersionTotals, suspects: Suspects) -> None:
        self._totals = totals
        self._suspects = suspects
        self._prompts: Sequence[Sequence[int]] = ()
        self._parameters: Mapping[str, Any] = {}
        self._begun = False
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.completed = False

    def submit(self, prompts: Sequence[Sequence[int]], parameters: Mapping[str, Any]) -> None:
        """Say what the engine is given: the token ids of each prompt, and the sampling parameters.

        Raises:
            RpcError: engines have died of it.
        """
        self._prompts, self._parameters = prompts, parameters
        self._suspects.check(self._fingerprint)
        self.prompt_tokens = sum(map(len, prompts))
        self._totals.prompt_tokens += self.prompt_tokens
        _spend(self.prompt_tokens)

    def begin(self) -> None:
        """Say that the engine has the request, or a part of it: from now on it may die of it."""
        self._begun = True

    def generated(self, tokens: int) -> None:
        self.generated_tokens += tokens
        self._totals.generated_tokens += tokens
        _spend(tokens)

    def complete(self) -> None:
        """Say that the request came to its own end."""
        self.completed = True

    def end(self) -> None:
        """Say that nobody waits for the request any more."""
        if self.completed:
            self._totals.finished += 1
        elif self.prompt_tokens:
            self._totals.aborted += 1
        if self._begun and not self.completed:
            self._suspects.left(self._fingerprint(), self._description())

    def _fingerprint(self) -> str:
        return fingerprint(self._prompts, self._parameters)

    def _description(self) -> str:
        call = current_call()
        who = f"{call.principal}, request id {call.request_id}" if call else "nobody's"
        options = ", ".join(f"{name} {value}" for name, value in self._parameters.items() if value)
        return f"{who}; {len(self._prompts)} prompt(s), {self.prompt_tokens} tokens; {options}"[:600]


def _spend(tokens: int) -> None:
    """Count tokens against the quota of whoever calls."""
    call = current_call()
    if call is not None:
        call.spend(tokens)


class ModelVersion:
    """A version of a model, and the engine behind it while that is loaded.

    Args:
        name: of the model.
        version: "1", "2", ...
        changed: called whenever its state changes.

    Attributes:
        totals: what it has done.
        suspects: requests that its engines may have died of.
        in_flight: requests being answered.
        reason: why it is FAILED or RESTARTING; empty otherwise.
        retry_seconds: when to come back while it is LOADING or RESTARTING.
        checkpoint: what it serves.
        options: how its engine runs, or ran last.
        check: what its engine had to show.
        created_at: seconds since 1970.
        unload_due: when it is unloaded, if it is only kept for a rollback; by the monotonic clock.
        lock: held by whoever starts or stops its engine.
    """

    def __init__(self, name: str, version: str = "1", changed: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.version = version
        self.totals = VersionTotals()
        self.suspects = Suspects()
        self.in_flight = 0
        self.reason = ""
        self.retry_seconds = LOADING_RETRY_SECONDS
        self.checkpoint: Checkpoint | None = None
        self.options: EngineOptions | None = None
        self.check: EngineCheckResult | None = None
        self.created_at = time.time()
        self.unload_due: float | None = None
        self.lock = asyncio.Lock()
        self._state = VersionState.LOADING
        self._engine: Engine | None = None
        self._changed = changed

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def state(self) -> VersionState:
        return self._state

    @property
    def engine(self) -> Engine | None:
        """The engine, in whatever state; None until loaded and after it was unloaded."""
        return self._engine

    @property
    def idle(self) -> bool:
        """True while nobody uses its engine."""
        return not self.in_flight and (self._engine is None or not self._engine.calls)

    def become(self, state: VersionState, reason: str = "") -> None:
        """Change the state, and say why if something is wrong."""
        if (state, reason) != (self._state, self.reason):
            self._state, self.reason = state, reason
            self._changed()

    def loaded(self, engine: Engine) -> None:
        self._engine = engine
        self.become(VersionState.SERVING)

    def without_engine(self, state: VersionState, reason: str = "") -> Engine | None:
        """Give the engine up, and return it."""
        engine, self._engine = self._engine, None
        self.become(state, reason)
        return engine

    def ready_engine(self) -> Engine:
        """Return the engine if it may be given new requests; otherwise raise `RpcError`."""
        if self._state is VersionState.SERVING and self._engine is not None:
            if not self._engine.dead:
                return self._engine
            self.become(VersionState.RESTARTING, "its engine died")
        raise self._refusal()

    def _refusal(self) -> RpcError:
        if self._state is VersionState.LOADING:
            return unavailable("MODEL_LOADING", f"{self.name} is still loading", self.retry_seconds)
        if self._state is VersionState.RESTARTING:
            message = f"the engine of {self.name} is being started again"
            return unavailable("ENGINE_RESTARTING", message, self.retry_seconds)
        if self._state is VersionState.FAILED:
            return unavailable("ENGINE_FAILED", f"{self.name} version {self.version} failed: {self.reason}")
        return RpcError(
            code_pb2.FAILED_PRECONDITION,
            "VERSION_NOT_LOADED",
            f"{self.name} version {self.version} is not loaded",
            metadata={"model": self.name, "version": self.version},
        )

    @contextmanager
    def request(self) -> Iterator[RequestTracker]:
        """Count a request in, and out again however it ends.

        Open it before anything is awaited: the engine then stays for it, whatever becomes of the model.
        """
        request = RequestTracker(self.totals, self.suspects)
        self.in_flight += 1
        try:
            with trace_request(self.name, self.version, request):
                yield request
        finally:
            self.in_flight -= 1
            request.end()
