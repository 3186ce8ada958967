"""The models being served, by name: which can answer, and what they have done so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from google.rpc import code_pb2

from secateur.serve.engine.engine import Engine
from secateur.serve.failures import Refused, unavailable

LOADING_RETRY_SECONDS = 5.0


class State(Enum):
    """What a model is doing; the values are those of ``secateur.v1.ModelState``."""

    LOADING = 1
    SERVING = 2
    DRAINING = 3
    FAILED = 4


@dataclass
class Totals:
    """Counts since start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0


class Request:
    """One request in flight; once the engine has it, it is aborted unless it is said to be `complete`."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.completed = False

    def prompted(self, tokens: int) -> None:
        """Say that the engine is given the request, with a prompt of so many tokens."""
        self.prompt_tokens += tokens
        self._totals.prompt_tokens += tokens

    def generated(self, tokens: int) -> None:
        """Count new tokens."""
        self.generated_tokens += tokens
        self._totals.generated_tokens += tokens

    def complete(self) -> None:
        """Say that the request came to its own end."""
        self.completed = True


class ServedModel:
    """A name that clients use, and the engine behind it once that is loaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1"
        self.state = State.LOADING
        self.totals = Totals()
        self.in_flight = 0
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine, in whatever state; None until loaded."""
        return self._engine

    def loaded(self, engine: Engine) -> None:
        """Begin to serve."""
        self._engine = engine
        self.state = State.SERVING

    def ready_engine(self) -> Engine:
        """Return the engine if it may be given new requests; otherwise raise `Refused`."""
        if self._engine is not None and self._engine.dead:
            self.state = State.FAILED
        if self.state is State.LOADING:
            raise unavailable("MODEL_LOADING", f"{self.name} is still loading", LOADING_RETRY_SECONDS)
        if self.state is State.DRAINING:
            raise unavailable("SHUTTING_DOWN", "the server is shutting down")
        if self.state is State.FAILED or self._engine is None:
            raise unavailable("ENGINE_DEAD", f"the engine of {self.name} died; restart the server")
        return self._engine

    @contextmanager
    def request(self, prompt_tokens: int = 0) -> Iterator[Request]:
        """Count a request in, and out again however it ends.

        Open it before anything is awaited: the engine then stays for it, whatever becomes of the model.

        Args:
            prompt_tokens: of the prompt, if they are known; else `Request.prompted` says it later.
        """
        request = Request(self.totals)
        request.prompted(prompt_tokens)
        self.in_flight += 1
        try:
            yield request
        finally:
            self.in_flight -= 1
            if request.completed:
                self.totals.finished += 1
            elif request.prompt_tokens:
                self.totals.aborted += 1


class Pool:
    """All models of a server."""

    def __init__(self, names: Iterator[str] | tuple[str, ...]) -> None:
        self.models: Mapping[str, ServedModel] = {name: ServedModel(name) for name in names}

    @property
    def in_flight(self) -> int:
        """Requests being answered, over all models."""
        return sum(model.in_flight for model in self.models.values())

    def find(self, name: str, version: str = "") -> ServedModel:
        """Return the model of that name; the only one there is, if the name is empty.

        Args:
            name: of the model.
            version: of it; empty = the active one.

        Raises:
            Refused: NOT_FOUND, saying which models there are.
        """
        if not name and len(self.models) == 1:
            name = next(iter(self.models))
        if name not in self.models:
            known = ", ".join(sorted(self.models))
            message = f"no model {name!r}" if name else "no model named, and there are several"
            raise Refused(
                code_pb2.NOT_FOUND,
                "MODEL_NOT_FOUND",
                f"{message}; there are: {known}",
                metadata={"model": name, "models": known},
            )
        model = self.models[name]
        if version not in ("", model.version):
            raise Refused(
                code_pb2.NOT_FOUND,
                "MODEL_NOT_FOUND",
                f"no version {version!r} of {name}; there are: {model.version}",
                metadata={"model": name, "model_version": version},
            )
        return model

    def drain(self) -> None:
        """Refuse new requests everywhere."""
        for model in self.models.values():
            if model.state is not State.FAILED:
                model.state = State.DRAINING
