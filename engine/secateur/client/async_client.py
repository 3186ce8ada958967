"""An asynchronous client of `secateur serve`: the surface of `Client`, to be awaited.

async with AsyncClient("127.0.0.1:50051") as client:
    async for event in client.generate("slim", "Once upon a time", max_tokens=64):
        print(event.text, end="", flush=True)
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Unpack

from secateur.client import inference
from secateur.client.async_connection import AsyncConnection, AsyncStub, async_unary
from secateur.client.endpoint import Endpoint
from secateur.client.inference import GenerationResult, PromptInput, SamplingOptions, StreamEvent
from secateur.client.jobs import AsyncJobsClient
from secateur.client.models import AsyncModelsClient
from secateur.config.connection import TIMEOUT_SECONDS


class AsyncClient(AsyncStub):
    """A connection to a server, made in the event loop that uses it; arguments and errors of `Client`."""

    def __init__(self, target: str, timeout: float = TIMEOUT_SECONDS, **options: Any) -> None:
        super().__init__(AsyncConnection(Endpoint(target, timeout=timeout, **options)))
        self.models = AsyncModelsClient(self._connection)
        self.jobs = AsyncJobsClient(self._connection)

    @property
    def target(self) -> str:
        return self._connection.target

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; calls in flight are cancelled."""
        await self._connection.close()

    async def generate(
        self,
        model: str,
        prompt: PromptInput,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncGenerator[StreamEvent, None]:
        """Yield the answer as it is generated; closing the iterator cancels the request.

        Who leaves the loop early should hold the iterator in ``contextlib.aclosing``, or the request
        lives on until the iterator is collected. Arguments as of `Client.generate`.
        """
        call = inference.stream_generate_call(model, prompt, version, priority, timeout, sampling)
        started = time.perf_counter()
        async with aclosing(self._connection.stream(call)) as responses:
            async for response in responses:
                seconds = time.perf_counter() - started
                yield StreamEvent(response.text_delta, tuple(response.token_ids), seconds, response)

    async def complete(
        self,
        model: str,
        prompt: PromptInput,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> GenerationResult:
        """Return the whole answer, sent as one message; arguments as of `Client.generate`."""
        call = inference.generate_call(model, prompt, version, priority, timeout, sampling)
        started = time.perf_counter()
        response = await self._connection.run(call)
        return GenerationResult.read(response, time.perf_counter() - started)

    score = async_unary(inference.score)
    score_all = async_unary(inference.score_all)
    tokenize = async_unary(inference.tokenize)
    detokenize = async_unary(inference.detokenize)
