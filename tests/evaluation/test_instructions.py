"""Answers to instructions, compared: a model agrees with itself, and padding changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.source import ModelSource, open_source
from secateur.checkpoint.transformers_module import transformers_module
from secateur.config.evaluate import MAX_INSTRUCTIONS, EvaluateOptions
from secateur.errors import BadInput
from secateur.evaluation.corpus_perplexity import evaluate
from secateur.evaluation.instructions import (
    PROMPTS,
    Answers,
    agreement,
    answer,
    compare,
    first_sentence,
    mean_log_probability,
    render_prompts,
)
from secateur.model.architecture import Architecture
from secateur.progress import SilentReporter
from secateur.prune.surgery import build_slim_model
from tests.evaluation.test_corpus_perplexity import slim_of

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelSource:
    return open_source(tiny_llama)


def test_there_are_as_many_as_the_option_allows_and_all_differ() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) == MAX_INSTRUCTIONS
    assert "What is the capital of France?" not in PROMPTS  # the demo asks that


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("The capital is Rome. It is old.", "the capital is rome."),
        ("  Rome!\nYes", "rome!"),
        ("3.5 and more", "3.5 and more"),
        ("One\nTwo", "one"),
        ("", ""),
    ],
)
def test_first_sentence(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_agreement_counts_first_sentences() -> None:
    one = Answers(((1,), (2,), (3,), (4,)), ("Rome. Old.", "Yes.", "No.", "A"))
    other = Answers(((1,), (2,), (3,), (4,)), ("rome. New.", "Yes.", "Yes.", "B"))
    assert agreement(one, other) == (0.5, pytest.approx(0.125**0.5 / 2))
    assert agreement(one, one)[0] == 1.0 and agreement(one, one)[1] > 0.1  # four are no certainty


def test_a_model_agrees_with_itself(source: ModelSource) -> None:
    tokenizer, model = source.tokenizer(), source.load_model()
    tokenizer.chat_template = TEMPLATE
    found = compare(model, model, tokenizer, 6, SilentReporter())
    likely = found["log_probability_of_dense_answers"]
    assert found["same_first_sentence"] == 1.0
    assert likely["slim"] == likely["dense"] < 0
    slim = build_slim_model(BlockLibrary(model, None, torch.float32), Architecture((1, 0, 1), (64, 30, 0)))
    cut = compare(model, slim, tokenizer, 6, SilentReporter())
    assert cut["same_first_sentence"] < 1.0
    assert cut["log_probability_of_dense_answers"]["slim"] < likely["dense"]


def test_in_a_batch_as_alone(source: ModelSource) -> None:
    """Prompts of other lengths are padded on the left."""
    tokenizer, model = source.tokenizer(), transformers_module(source.load_model())
    tokenizer.chat_template = TEMPLATE
    prompts = render_prompts(tokenizer, 5)
    assert len({len(prompt) for prompt in prompts}) > 1
    together = answer(model, tokenizer, prompts, "", SilentReporter())
    alone = [answer(model, tokenizer, [prompt], "", SilentReporter()).ids[0] for prompt in prompts]
    assert list(together.ids) == alone
    likely = [
        (mean_log_probability(model, [p], Answers((ids,), ("",))), len(ids))
        for p, ids in zip(prompts, together.ids, strict=True)
    ]
    mean = sum(value * count for value, count in likely) / sum(count for _, count in likely)
    assert mean_log_probability(model, prompts, together) == pytest.approx(mean, rel=1e-5)


def test_what_cannot_be_compared_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(BadInput, match="instructions: got 3: answers are compared with the dense model's"):
        evaluate(EvaluateOptions(model=str(tiny_llama), instructions=3), SilentReporter())
    with pytest.raises(BadInput, match="instructions: got 3: answers are compared with those of `dense`"):
        EvaluateOptions(model="x", instructions=3, dense="")
    with pytest.raises(BadInput, match="instructions: got 201"):
        EvaluateOptions(model="x", instructions=201)


def test_it_is_part_of_the_document(tiny_llama: Path, tmp_path: Path) -> None:
    slim = slim_of(tiny_llama, tmp_path / "slim")
    (slim / "chat_template.jinja").write_text(TEMPLATE)
    document = evaluate(EvaluateOptions(model=str(slim), instructions=2), SilentReporter())
    assert document["instructions"]["prompts"] == 2 and len(document["instructions"]["examples"]) == 2
