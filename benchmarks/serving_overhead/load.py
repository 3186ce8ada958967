"""A closed loop of streams: each asks, reads its answer to the end, and asks again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Ask:
    """One request: a prompt nobody else has, and how many tokens to answer."""

    token_ids: list[int]
    tokens: int


@dataclass
class Timed:
    """When the messages of an answer arrived.

    Attributes:
        arrivals: per message with tokens, seconds since the request was sent and the tokens it brought.
        engine_ttft_ms: from queueing to the first token, as the engine itself says; None if it does not.
    """

    arrivals: list[tuple[float, int]] = field(default_factory=list)
    engine_ttft_ms: float | None = None

    @property
    def ttft_ms(self) -> float:
        return 1e3 * self.arrivals[0][0]

    @property
    def tpot_ms(self) -> float:
        """Per token after the first message."""
        (first, _), *_, (last, _) = self.arrivals
        return 1e3 * (last - first) / sum(tokens for _, tokens in self.arrivals[1:])

    @classmethod
    def read(cls, document: dict[str, Any]) -> Timed:
        return cls([(at, tokens) for at, tokens in document["arrivals"]], document["engine_ttft_ms"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Way(Protocol):
    """How an engine is reached."""

    def ask(self, ask: Ask) -> AsyncIterator[tuple[int, float | None]]:
        """Yield, per message, its tokens and (at the end) the engine's time to first token in ms."""


def asks(count: int, prompt: int, tokens: int, vocabulary: int, seed: int) -> list[Ask]:
    """Make requests; their lengths differ by a quarter, so that streams do not stay in step."""
    chance = random.Random(seed)
    return [
        Ask(
            [chance.randrange(10, vocabulary) for _ in range(prompt)],
            chance.randint(tokens * 3 // 4, tokens * 5 // 4),
        )
        for _ in range(count)
    ]


async def drive(way: Way, requests: Sequence[Ask], streams: int) -> list[Timed]:
    """Ask everything over so many streams."""
    waiting = deque(requests)
    answers: list[Timed] = []

    async def stream() -> None:
        while waiting:
            answers.append(await _answer(way, waiting.popleft()))

    await asyncio.gather(*(stream() for _ in range(streams)))
    return answers


async def _answer(way: Way, ask: Ask) -> Timed:
    timed = Timed()
    received = 0
    sent = time.perf_counter()
    async for tokens, engine in way.ask(ask):
        if tokens:
            timed.arrivals.append((time.perf_counter() - sent, tokens))
            received += tokens
        if engine is not None:
            timed.engine_ttft_ms = engine
    if received != ask.tokens:
        raise RuntimeError(f"asked for {ask.tokens} tokens, got {received}")
    return timed
