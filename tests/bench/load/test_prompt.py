"""Prompts are of the length wanted, no two begin alike, and a number always gives the same one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.bench.load.prompt import RandomTokens, RandomWords, TextPassages, TokenPassages, passage_start
from secateur.errors import BadInput

TEXT = tuple(range(5000))
WORDS = ["one", "prompt", "must", "never", "begin", "as", "another", "does", "or", "a", "cache", "answers"]


@pytest.mark.parametrize("make", [RandomTokens(TEXT, 0).make, TokenPassages(TEXT, 0).make])
def test_tokens(make) -> None:
    prompts = [make(number, 32) for number in range(500)]
    assert all(len(prompt.token_ids) == prompt.tokens == 32 for prompt in prompts)
    assert len({prompt.token_ids[:8] for prompt in prompts}) == 500
    assert make(7, 32) == prompts[7]


@pytest.mark.parametrize(
    "make", [RandomWords(WORDS, 4.0, 0).make, TextPassages(" ".join(map(str, TEXT)), 4.0, 0).make]
)
def test_text(make) -> None:
    prompts = [make(number, 50) for number in range(200)]
    assert all(len(prompt.text) == pytest.approx(200, abs=12) for prompt in prompts)
    assert len({prompt.text[:24] for prompt in prompts}) > 195
    assert make(7, 50) == prompts[7]


def test_another_seed_gives_other_prompts() -> None:
    assert RandomTokens(TEXT, 0).make(1, 16) != RandomTokens(TEXT, 1).make(1, 16)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9))
def test_every_passage_is_used_once_before_one_is_used_again(length: int, size: int, seed: int) -> None:
    if size > length:
        with pytest.raises(BadInput, match="corpus"):
            passage_start(length, size, 0, seed, "tokens")
        return
    places = length - size + 1
    assert {passage_start(length, size, n, seed, "tokens") for n in range(places)} == set(range(places))
