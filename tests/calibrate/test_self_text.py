"""Text that the model writes itself: drawn from its own distribution, the same for a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.calibrate import self_text
from secateur.calibrate.self_text import generate_text
from secateur.checkpoint.source import ModelSource, open_source
from secateur.checkpoint.transformers_module import transformers_module


class Quiet:
    """A reporter that remembers its stages and what was said."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def step(self, note: str = "", count: int = 1) -> None: ...

    def message(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelSource:
    return open_source(tiny_llama)


def written(source: ModelSource, seed: int = 0, **changes: Any) -> str:
    asked = {"tokens": 3000, "length": 32} | changes
    return generate_text(source.load_model(), source.tokenizer(), seed=seed, reporter=Quiet(), **asked)


def test_the_same_for_a_seed_and_another_for_another(source: ModelSource) -> None:
    before = torch.random.get_rng_state()
    first = written(source, tokens=800)
    assert first == written(source, tokens=800) != written(source, tokens=800, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody else's randomness is touched


def test_as_much_as_was_asked_for(source: ModelSource) -> None:
    tokens = source.tokenizer()(written(source), add_special_tokens=False)["input_ids"]
    assert len(tokens) >= 3000


def test_special_tokens_are_never_drawn(source: ModelSource) -> None:
    tokenizer = source.tokenizer()
    special = sorted(set(tokenizer.all_special_ids))
    module = transformers_module(source.load_model())
    with torch.inference_mode():
        drawn = self_text._sequences(module, self_text._starts(tokenizer, special, 64), special, 32)
    assert drawn.shape == (self_text.BATCH, 32)
    assert not set(drawn.flatten().tolist()) & set(special)


def test_drawn_from_the_models_distribution(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no nucleus it is greedy decoding, as transformers does it."""
    monkeypatch.setattr(self_text, "TOP_P", 1e-6)
    module = transformers_module(source.load_model())
    starts = torch.arange(10, 14)[:, None]
    with torch.inference_mode():
        drawn = self_text._sequences(module, starts, [0, 1], 12)
        greedy = module.generate(  # type: ignore[operator]
            starts,
            do_sample=False,
            max_new_tokens=11,
            suppress_tokens=[0, 1],
            eos_token_id=None,
            pad_token_id=0,
        )
    assert torch.equal(drawn, greedy)


TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}<|endoftext|>\n{% endfor %}"


def test_every_other_batch_is_chats(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model goes on from where the template lets a user speak; a chat ends with the answer's end."""
    monkeypatch.setattr(self_text, "BATCH", 4)
    tokenizer = source.tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    model = source.load_model()
    parts = generate_text(model, tokenizer, tokens=300, length=64, seed=0, reporter=Quiet(), chats=True)
    assert parts.count("<s>user: ") >= 4 and parts.startswith("<s>user: ")
    ends = [chat.count("<|endoftext|>") for chat in parts.split("<s>user: ")[1:4]]
    assert max(ends) <= 2


def test_no_chats_without_a_template(source: ModelSource) -> None:
    assert "<s>" not in written(source, tokens=300, chats=True)
