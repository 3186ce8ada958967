"""Sampling parameters: their defaults and ranges, and what the engine is told.

The defaults are those documented in inference.proto; a checkpoint's generation_config.json adds its
end-of-sequence tokens, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from secateur.serve.engine.steps import MAX_COMPLETIONS
from secateur.serve.failures import FieldViolation, invalid_argument

MAX_STOPS = 16
MAX_PRIORITY = 100


class ValueRange(NamedTuple):
    """The values a number may have. ``above`` leaves out the lowest."""

    lowest: float
    highest: float
    above: bool = False

    def violated_by(self, value: float) -> bool:
        """True outside the range; NaN always is."""
        return not (self.lowest <= value <= self.highest) or (self.above and value == self.lowest)

    def __str__(self) -> str:
        if math.isinf(self.highest):
            return f"at least {self.lowest:g}"
        return f"{'above ' if self.above else ''}{self.lowest:g} to {self.highest:g}"


RANGES = {
    "n": ValueRange(1, MAX_COMPLETIONS),
    "temperature": ValueRange(0, 2),
    "top_p": ValueRange(0, 1, above=True),
    "top_k": ValueRange(0, math.inf),
    "min_p": ValueRange(0, 1),
    "repetition_penalty": ValueRange(0, 2, above=True),
    "presence_penalty": ValueRange(-2, 2),
    "frequency_penalty": ValueRange(-2, 2),
    "max_tokens": ValueRange(1, math.inf),
    "min_tokens": ValueRange(0, math.inf),
    "seed": ValueRange(0, 2**63 - 1),
    "logprobs": ValueRange(0, 20),
    "stream_interval": ValueRange(1, 1024),
}


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are chosen and when to stop: ``SamplingParameters`` of inference.proto and its defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 256
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    stream_interval: int = 1

    def check(self, vocabulary: int, prefix: str = "") -> None:
        """Refuse values that are not allowed.

        Args:
            vocabulary: number of token ids the model knows.
            prefix: of the fields' names in the request.

        Raises:
            RpcError: INVALID_ARGUMENT naming every field at fault.
        """
        violations = [
            FieldViolation(prefix + field, description) for field, description in self._violations(vocabulary)
        ]
        if violations:
            raise invalid_argument(*violations)

    def for_engine(self, room: int) -> dict[str, Any]:
        """Return the keyword arguments of vLLM's ``SamplingParams``.

        Args:
            room: tokens that still fit into the context after the prompt.
        """
        max_new_tokens = min(self.max_tokens, room)
        # The engine refuses more than max_tokens; the context may have cut that down just now.
        cut = {"max_tokens": max_new_tokens, "min_tokens": min(self.min_tokens, max_new_tokens)}
        lists = {"stop": list(self.stop), "stop_token_ids": list(self.stop_token_ids)}
        return vars(self) | cut | lists

    def _violations(self, vocabulary: int) -> Iterator[tuple[str, str]]:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None and allowed.violated_by(value):
                yield name, f"got {value:g}, allowed is {allowed}"
        if self.n > 1 and self.temperature == 0:
            yield "n", f"got {self.n}, but at temperature 0 all completions are the same: 1"
        if self.min_tokens > self.max_tokens >= 1:
            yield "min_tokens", f"got {self.min_tokens}, more than max_tokens"
        if len(self.stop) > MAX_STOPS:
            yield "stop", f"got {len(self.stop)} texts, at most {MAX_STOPS}"
        if not all(self.stop):
            yield "stop", "got an empty text"
        unknown = [token for token in self.stop_token_ids if not 0 <= token < vocabulary]
        if unknown:
            yield "stop_token_ids", f"got {unknown[0]}, ids go from 0 to {vocabulary - 1}"


def check_priority(priority: int) -> None:
    """Refuse a priority out of range."""
    allowed = ValueRange(-MAX_PRIORITY, MAX_PRIORITY)
    if allowed.violated_by(priority):
        raise invalid_argument(FieldViolation("priority", f"got {priority}, allowed is {allowed}"))
