"""What happened to one request: raw times, from which everything else is computed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any


class Phase(StrEnum):
    """What a request is for; only `MEASURED` ones are counted, the others keep the load as it should be."""

    WARMUP = "warmup"
    MEASURED = "measured"
    COOLDOWN = "cooldown"


@dataclass(frozen=True)
class EngineTimings:
    """Where the time went, as the server's engine saw it."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float


class StreamedResponse:
    """An answer while it comes in; a target fills it, and what came before a failure stays.

    Attributes:
        times: when each message with tokens arrived, by the clock of `time.perf_counter`.
        tokens: how many tokens each brought.
        prompt_tokens, output_tokens: as the server counted them; None = it did not say.
        cached_tokens: prompt tokens that the server had not to compute again.
        engine: the server's own timings; None = it did not say.
    """

    __slots__ = ("cached_tokens", "engine", "output_tokens", "prompt_tokens", "times", "tokens")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.engine: EngineTimings | None = None

    def received(self, tokens: int = 1) -> None:
        """Note that a message with tokens arrived just now."""
        self.times.append(time.perf_counter())
        self.tokens.append(tokens)


@dataclass(frozen=True)
class RequestRecord:
    """One request. Times are in seconds since the benchmark began.

    Attributes:
        stage, round, model, index: its place in the plan.
        phase: see `Phase`.
        intended: when it should have been sent; latencies count from here.
        sent: when it was.
        times: when each message with tokens arrived.
        tokens: how many tokens each brought.
        ended: when the call was over, one way or the other.
        prompt_tokens, output_tokens: as the server counted them; what was asked for and received, if it
            did not say.
        cached_tokens: prompt tokens from the server's prefix cache; None = it did not say.
        engine: the server's own timings; None = it did not say.
        error: "" or the code of what went wrong, such as UNAVAILABLE.
        message: one line about it.
    """

    stage: int
    round: int
    model: str
    index: int
    phase: Phase
    intended: float
    sent: float
    times: tuple[float, ...]
    tokens: tuple[int, ...]
    ended: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    engine: EngineTimings | None = None
    error: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        """True for a whole answer with at least one token."""
        return not self.error and bool(self.times)

    @property
    def queue_ms(self) -> float:
        """From when it should have been sent to when it was."""
        return 1e3 * (self.sent - self.intended)

    @property
    def ttft_ms(self) -> float:
        return 1e3 * (self.times[0] - self.intended)

    @property
    def e2e_ms(self) -> float:
        """End to end: to the last token."""
        return 1e3 * (self.times[-1] - self.intended)

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after those of the first message; None if there were none."""
        later = self.output_tokens - self.tokens[0]
        return 1e3 * (self.times[-1] - self.times[0]) / later if later > 0 and len(self.times) > 1 else None

    @property
    def itls_ms(self) -> list[float]:
        """Gaps between messages with tokens."""
        return [1e3 * (after - before) for before, after in pairwise(self.times)]

    def to_json(self) -> dict[str, Any]:
        """As in the file of records."""
        document = asdict(self)
        if all(count == 1 for count in self.tokens):
            del document["tokens"]
        return {key: value for key, value in document.items() if value not in (None, "")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RequestRecord:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for what is no record."""
        fields = dict(document)
        fields["phase"] = Phase(fields["phase"])
        fields["times"] = tuple(fields["times"])
        fields["tokens"] = tuple(fields.get("tokens") or (1,) * len(fields["times"]))
        if "engine" in fields:
            fields["engine"] = EngineTimings(**fields["engine"])
        return cls(**fields)
