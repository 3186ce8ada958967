"""A synchronous client of `secateur serve`.

with Client("127.0.0.1:50051") as client:
    for event in client.generate("slim", "Once upon a time", max_tokens=64):
        print(event.text, end="", flush=True)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Unpack

from secateur.client import inference
from secateur.client.connection import Connection, SyncStub, sync_unary
from secateur.client.endpoint import Endpoint
from secateur.client.inference import GenerationResult, PromptInput, SamplingOptions, StreamEvent
from secateur.client.jobs import JobsClient
from secateur.client.models import ModelsClient
from secateur.config.connection import TIMEOUT_SECONDS


class Client(SyncStub):
    """A connection to a server; every method raises `CallFailed` when its call does.

    Args:
        target: ``HOST:PORT`` or ``unix:PATH``.
        timeout: deadline of each call, in seconds, retries included.
        options: further fields of `Endpoint`: ``ca``, ``cert``, ``key``, ``token``, ``wait_for_ready``,
            ``retries``, ...

    Raises:
        BadInput: the options do not fit together, or a file cannot be read.
    """

    def __init__(self, target: str, timeout: float = TIMEOUT_SECONDS, **options: Any) -> None:
        super().__init__(Connection(Endpoint(target, timeout=timeout, **options)))
        self.models = ModelsClient(self._connection)
        self.jobs = JobsClient(self._connection)

    @property
    def target(self) -> str:
        return self._connection.target

    @property
    def endpoint(self) -> Endpoint:
        """Where the server is and how it is called."""
        return self._connection.endpoint

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; calls in flight are cancelled."""
        self._connection.close()

    def generate(
        self,
        model: str,
        prompt: PromptInput,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[StreamEvent]:
        """Yield the answer as it is generated; leaving the loop early cancels the request.

        Args:
            model: name of the model; "" for the server's default.
            prompt: see `PromptInput`.
            version: of the model; "" for the active one.
            priority: higher goes first where requests have to wait.
            timeout: deadline in seconds; None = the client's.
            sampling: fields of ``SamplingParameters`` (inference.proto).
        """
        call = inference.stream_generate_call(model, prompt, version, priority, timeout, sampling)
        started = time.perf_counter()
        for response in self._connection.stream(call):
            seconds = time.perf_counter() - started
            yield StreamEvent(response.text_delta, tuple(response.token_ids), seconds, response)

    def complete(
        self,
        model: str,
        prompt: PromptInput,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> GenerationResult:
        """Return the whole answer, sent as one message; arguments as of `generate`."""
        call = inference.generate_call(model, prompt, version, priority, timeout, sampling)
        started = time.perf_counter()
        response = self._connection.run(call)
        return GenerationResult.read(response, time.perf_counter() - started)

    score = sync_unary(inference.score)
    score_all = sync_unary(inference.score_all)
    tokenize = sync_unary(inference.tokenize)
    detokenize = sync_unary(inference.detokenize)
