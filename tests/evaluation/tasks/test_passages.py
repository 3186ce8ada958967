"""Tasks cut from text: the same from the same text, answers that are there, wrong ends from elsewhere."""

from __future__ import annotations

import pytest

from secateur.calibrate.corpus import Corpus
from secateur.errors import BadInput
from secateur.evaluation.tasks import passages
from secateur.evaluation.tasks.passages import cloze_examples, ending_examples, require_examples


@pytest.fixture(scope="module")
def corpus(english: str) -> Corpus:
    return Corpus("english", english)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_word_follows_its_context_and_has_occurred_in_it(corpus: Corpus) -> None:
    examples, text = cloze_examples(corpus), flat(corpus.text)
    assert 100 < len(examples) <= passages.MAX_EXAMPLES
    for example in examples:
        assert f"{flat(example.context)} {example.word}" in text
        assert example.word.lower() in example.context.lower().split()
        assert example.word.isalpha() and len(example.word) >= 4
        assert 50 <= len(example.context.split()) < 100


def test_the_real_end_follows_its_context_and_the_others_do_not(corpus: Corpus) -> None:
    examples, text = ending_examples(corpus), flat(corpus.text)
    assert 100 < len(examples) <= passages.MAX_EXAMPLES
    for example in examples:
        going_on = [f"{flat(example.context)} {end}" in text for end in example.endings]
        assert going_on[example.answer]
        assert len(example.endings) == 4 and all(len(end.split()) == 20 for end in example.endings)
    assert sum(f"{flat(e.context)} {end}" in text for e in examples for end in e.endings) < 1.05 * len(
        examples
    )


def test_answers_are_spread_over_the_places(corpus: Corpus) -> None:
    places = [example.answer for example in ending_examples(corpus)]
    assert all(places.count(place) > len(places) / 8 for place in range(4))


def test_the_same_text_gives_the_same_tasks(corpus: Corpus) -> None:
    again = Corpus("other name", corpus.text)
    assert cloze_examples(again) == cloze_examples(corpus) and ending_examples(again) == ending_examples(
        corpus
    )


def test_many_passages_are_thinned_over_the_whole_text(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = ending_examples(corpus)
    monkeypatch.setattr(passages, "MAX_EXAMPLES", 10)
    few = ending_examples(corpus)
    assert len(few) == 10 and few[0] == every[0]
    assert corpus.text.index(few[-1].context) > 0.8 * len(corpus.text)


@pytest.mark.parametrize("kind", ["cloze", "ending"])
def test_too_little_text(kind: str) -> None:
    with pytest.raises(BadInput, match=f"tasks: got {kind}:tiny: the text is too short"):
        require_examples(kind, Corpus("tiny", "a few words"))
