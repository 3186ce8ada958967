"""Sampling parameters: their defaults and ranges, and what the engine is told.

The defaults are those documented in inference.proto; a checkpoint's generation_config.json adds its
end-of-sequence tokens, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from secateur.serve.failures import Violation, invalid
from secateur.v1 import inference_pb2

MAX_STOPS = 16


class Field(NamedTuple):
    """A numeric field: its default and the values allowed. ``above`` leaves out the lowest."""

    default: float | None
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


FIELDS = {
    "temperature": Field(1.0, 0, 2),
    "top_p": Field(1.0, 0, 1, above=True),
    "top_k": Field(0, 0, math.inf),
    "min_p": Field(0.0, 0, 1),
    "repetition_penalty": Field(1.0, 0, 2, above=True),
    "presence_penalty": Field(0.0, -2, 2),
    "frequency_penalty": Field(0.0, -2, 2),
    "max_tokens": Field(256, 1, math.inf),
    "min_tokens": Field(0, 0, math.inf),
    "seed": Field(None, 0, 2**63 - 1),
    "logprobs": Field(None, 0, 20),
    "stream_interval": Field(1, 1, 1024),
}


def engine_parameters(
    sampling: inference_pb2.SamplingParameters, vocabulary: int, room: int
) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's ``SamplingParams``.

    Args:
        sampling: as the client sent it.
        vocabulary: number of token ids the model knows.
        room: tokens that still fit into the context after the prompt.

    Raises:
        Refused: INVALID_ARGUMENT naming every field out of range.
    """
    values: dict[str, Any] = {
        name: getattr(sampling, name) if sampling.HasField(name) else field.default
        for name, field in FIELDS.items()
    }
    violations = list(_violations(sampling, values, vocabulary))
    if violations:
        raise invalid(*violations)
    values["max_tokens"] = min(values["max_tokens"], room)
    # The engine refuses more than max_tokens; the context may have cut that down just now.
    values["min_tokens"] = min(values["min_tokens"], values["max_tokens"])
    return values | {
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": sampling.ignore_eos,
    }


def _violations(
    sampling: inference_pb2.SamplingParameters, values: dict[str, Any], vocabulary: int
) -> Iterator[Violation]:
    for name, field in FIELDS.items():
        value = values[name]
        if value is not None and field.violated_by(value):
            yield Violation(f"sampling.{name}", f"got {value:g}, allowed is {field}")
    if values["min_tokens"] > values["max_tokens"]:
        yield Violation("sampling.min_tokens", f"got {values['min_tokens']}, more than max_tokens")
    if len(sampling.stop) > MAX_STOPS:
        yield Violation("sampling.stop", f"got {len(sampling.stop)} texts, at most {MAX_STOPS}")
    if not all(sampling.stop):
        yield Violation("sampling.stop", "got an empty text")
    unknown = [token for token in sampling.stop_token_ids if token >= vocabulary]
    if unknown:
        yield Violation("sampling.stop_token_ids", f"got {unknown[0]}, ids go from 0 to {vocabulary - 1}")
