"""What is asked: a prompt, how long its answer is to be, and where prompts come from.

No two prompts of a benchmark begin alike, so that no server can answer from its prefix cache. The same
number gives the same prompt, so that models which are compared get the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from secateur.errors import BadInput


@dataclass(frozen=True)
class BenchmarkPrompt:
    """Text or token ids, one of the two; `tokens` is how many there are, or should be."""

    tokens: int
    text: str | None = None
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BenchmarkRequest:
    """A prompt and the length of its answer.

    Attributes:
        ignore_eos: whether the answer has that length whatever the model says.
    """

    prompt: BenchmarkPrompt
    output_tokens: int
    ignore_eos: bool = True


class PromptSource(Protocol):
    """Where prompts come from."""

    def make(self, number: int, tokens: int) -> BenchmarkPrompt:
        """The prompt of that number, of that many tokens."""
        ...


@dataclass(frozen=True)
class RandomTokens:
    """Tokens drawn at random from those of a text."""

    pool: Sequence[int]
    seed: int

    def make(self, number: int, tokens: int) -> BenchmarkPrompt:
        chosen = np.random.default_rng([self.seed, number]).integers(len(self.pool), size=tokens)
        return BenchmarkPrompt(tokens, token_ids=tuple(self.pool[index] for index in chosen))


@dataclass(frozen=True)
class TokenPassages:
    """Passages of a text, each beginning elsewhere."""

    text: Sequence[int]
    seed: int

    def make(self, number: int, tokens: int) -> BenchmarkPrompt:
        """Cut a passage out.

        Raises:
            BadInput: the text is too short.
        """
        start = passage_start(len(self.text), tokens, number, self.seed, "tokens")
        return BenchmarkPrompt(tokens, token_ids=tuple(self.text[start : start + tokens]))


@dataclass(frozen=True)
class RandomWords:
    """Words of a text drawn at random, about as many as make the tokens wanted."""

    words: Sequence[str]
    characters_per_token: float
    seed: int

    def make(self, number: int, tokens: int) -> BenchmarkPrompt:
        rng = np.random.default_rng([self.seed, number])
        num_characters = tokens * self.characters_per_token
        chosen: list[str] = []
        length = 0
        while length < num_characters:
            chosen.append(self.words[int(rng.integers(len(self.words)))])
            length += len(chosen[-1]) + 1
        return BenchmarkPrompt(tokens, text=" ".join(chosen))


@dataclass(frozen=True)
class TextPassages:
    """Passages of a text for a server whose tokens are not known: their length is about right."""

    text: str
    characters_per_token: float
    seed: int

    def make(self, number: int, tokens: int) -> BenchmarkPrompt:
        """Cut a passage out.

        Raises:
            BadInput: the text is too short.
        """
        size = max(1, round(tokens * self.characters_per_token))
        start = passage_start(len(self.text), size, number, self.seed, "characters")
        return BenchmarkPrompt(tokens, text=self.text[start : start + size])


def passage_start(length: int, size: int, number: int, seed: int, unit: str) -> int:
    """Where passage `number` begins: every beginning is used once before one is used again.

    Raises:
        BadInput: not even one fits.
    """
    places = length - size + 1
    if places < 1:
        raise BadInput("corpus", f"{length} {unit}", f"a prompt takes {size}")
    # A multiplicative walk visits all places, far from each other.
    step = max(1, int(places * 0.6180339887))
    while np.gcd(step, places) != 1:
        step += 1
    return int((seed * 7919 + number * step) % places)
