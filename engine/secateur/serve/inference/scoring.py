"""Score texts: the log-probability a model gives to each of their tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from secateur.serve.engine.engine import Engine
from secateur.serve.guard.call import current_principal
from secateur.serve.inference.prompt import GenerationPrompt
from secateur.serve.models.version import ModelVersion

MIN_TOKENS = 2


class TextScore(NamedTuple):
    """A text's tokens, and the log-probability of each but the first, given those before it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]

    @property
    def perplexity(self) -> float:
        """Exp of minus the mean log-probability."""
        return math.exp(-math.fsum(self.logprobs) / len(self.logprobs))


async def score(model: ModelVersion, texts: Sequence[GenerationPrompt]) -> list[TextScore]:
    """Return the score of each text. The engine computes short ones side by side, long ones one by one.

    Raises:
        RpcError: one cannot be scored (then none is), or the model cannot answer now.
    """
    engine = model.ready_engine()
    with model.request() as accounting:
        tokens = [await text.fitting_tokens(engine, MIN_TOKENS) for text in texts]
        accounting.submit(tokens, {"score": True})
        scores = await _together(engine, tokens, accounting.begin)
        accounting.complete()
        return scores


async def _together(
    engine: Engine, tokens: Sequence[Sequence[int]], begin: Callable[[], None]
) -> list[TextScore]:
    """Score all; when one fails, drop the others."""
    caller = current_principal()
    tasks = [asyncio.ensure_future(engine.score(token_ids, caller, begin)) for token_ids in tokens]
    try:
        logprobs = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [TextScore(*pair) for pair in zip(tokens, logprobs, strict=True)]
