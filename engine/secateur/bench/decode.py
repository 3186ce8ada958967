"""Time to first token and decode speed of several models of one server, as a client sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from secateur.client import Client, GenerationResult


@dataclass(frozen=True)
class DecodeSpeed:
    """Medians over repeated requests, one stream at a time.

    Attributes:
        ttft_ms: from sending the request to the first token.
        tokens_per_second: of the tokens after the first message.
        repeats: requests measured.
    """

    ttft_ms: float
    tokens_per_second: float
    repeats: int

    def to_json(self) -> dict[str, float]:
        return {
            "ttft_ms": round(self.ttft_ms, 1),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "repeats": self.repeats,
        }


def measure_decode_speed(
    client: Client, models: Sequence[str], prompts: Sequence[str], *, max_tokens: int
) -> dict[str, DecodeSpeed]:
    """Speeds by model; every prompt is sent to each model in turn, so that drift hits all alike.

    Prompts must differ (a server may reuse work on equal ones) and the first is a warm-up.
    """
    ttft: dict[str, list[float]] = {name: [] for name in models}
    speed: dict[str, list[float]] = {name: [] for name in models}
    for number, prompt in enumerate(prompts):
        for name in models:
            answer = GenerationResult.of(
                client.generate(name, prompt, max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
            )
            if number > 0 and answer.ttft_ms is not None and answer.tokens_per_second is not None:
                ttft[name].append(answer.ttft_ms)
                speed[name].append(answer.tokens_per_second)
    return {name: DecodeSpeed(median(ttft[name]), median(speed[name]), len(speed[name])) for name in models}
