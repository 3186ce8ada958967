"""Tasks made from any text, the same from the same text: the last word of a passage, the real end of one.

Both are about what the model learned, not about formats, and tell apart models that are near chance on MMLU.

``cloze``: complete a word of four letters or more that stands at the end of 50 to 100 words and has occurred
in them, as in LAMBADA (arXiv 1606.06031; no human checked that it can be guessed).
``ending``: which of four runs of 20 words goes on from 40 words, the other three being ends of other passages
of the same text, as in HellaSwag (arXiv 1905.07830; wrong ends are real text, not written to mislead).
"""

from __future__ import annotations

import random
import re
from dataclasses import asdict, dataclass
from typing import TypeVar

from secateur.calibrate.corpus import Corpus
from secateur.errors import BadInput

MAX_EXAMPLES = 500  # at most, spread over the text
CLOZE_WORDS, MIN_CLOZE_WORDS = 100, 50
CONTEXT_WORDS, ENDING_WORDS = 40, 20
ENDINGS = 4
_WORD = re.compile(r"\S+")
_TARGET = re.compile(r"[A-Za-z]{4,}")
_ACCURACY = {"aggregation": "mean", "higher_is_better": True}


@dataclass(frozen=True)
class ClozeExample:
    """A word to complete."""

    context: str
    word: str

    def row(self) -> dict[str, object]:
        """As lm-eval wants it."""
        return asdict(self)


@dataclass(frozen=True)
class EndingExample:
    """Ways to go on; `answer` is the index of the real one."""

    context: str
    endings: tuple[str, ...]
    answer: int

    def row(self) -> dict[str, object]:
        """As lm-eval wants it."""
        return asdict(self)


_Example = TypeVar("_Example")


def cloze_examples(corpus: Corpus) -> tuple[ClozeExample, ...]:
    """Up to `MAX_EXAMPLES` words to complete, none where the text has too few words."""
    examples = (_cloze(corpus.text, span) for span in _passages(corpus.text, CLOZE_WORDS))
    return _spread([example for example in examples if example is not None])


def ending_examples(corpus: Corpus) -> tuple[EndingExample, ...]:
    """Up to `MAX_EXAMPLES` choices among ends; wrong ones are drawn by the position of the passage."""
    parts = [
        (corpus.text[span[0].start() : span[CONTEXT_WORDS - 1].end()], _joined(span[CONTEXT_WORDS:]))
        for span in _passages(corpus.text, CONTEXT_WORDS + ENDING_WORDS)
    ]
    if len(parts) < ENDINGS:
        return ()
    return _spread([_ending(parts, position) for position in range(len(parts))])


def passage_config(kind: str, name: str) -> dict[str, object]:
    """The task as a configuration for lm-eval, apart from its data."""
    common = {"task": name, "test_split": "test", "num_fewshot": 0, "doc_to_text": "{{context}}"}
    if kind == "cloze":
        return common | {
            "output_type": "loglikelihood",
            "doc_to_target": "{{' '+word}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", **_ACCURACY}],
        }
    return common | {
        "output_type": "multiple_choice",
        "doc_to_target": "answer",
        "doc_to_choice": "endings",
        "metric_list": [{"metric": "acc", **_ACCURACY}, {"metric": "acc_norm", **_ACCURACY}],
    }


def require_examples(kind: str, corpus: Corpus) -> tuple[ClozeExample, ...] | tuple[EndingExample, ...]:
    """The examples of a kind.

    Raises:
        BadInput: the text gives none.
    """
    examples: tuple[ClozeExample, ...] | tuple[EndingExample, ...] = (
        cloze_examples(corpus) if kind == "cloze" else ending_examples(corpus)
    )
    if not examples:
        raise BadInput("tasks", f"{kind}:{corpus.name}", "the text is too short for a single example")
    return examples


def _passages(text: str, words: int) -> list[list[re.Match[str]]]:
    """The text in runs of so many words."""
    word_matches = list(_WORD.finditer(text))
    return [word_matches[start : start + words] for start in range(0, len(word_matches) - words + 1, words)]


def _cloze(text: str, span: list[re.Match[str]]) -> ClozeExample | None:
    """The last word that has occurred before in the passage."""
    for position in range(len(span) - 1, MIN_CLOZE_WORDS - 1, -1):
        word = span[position].group()
        before = {match.group().lower() for match in span[:position]}
        if _TARGET.fullmatch(word) and word.lower() in before:
            return ClozeExample(text[span[0].start() : span[position - 1].end()], word)
    return None


def _ending(parts: list[tuple[str, str]], position: int) -> EndingExample:
    rng = random.Random(position)
    context, real = parts[position]
    distractors = rng.sample([index for index in range(len(parts)) if index != position], ENDINGS - 1)
    answer = rng.randrange(ENDINGS)
    chosen = [parts[index][1] for index in distractors]
    return EndingExample(context, tuple([*chosen[:answer], real, *chosen[answer:]]), answer)


def _joined(span: list[re.Match[str]]) -> str:
    return " ".join(match.group() for match in span)


def _spread(examples: list[_Example]) -> tuple[_Example, ...]:
    """At most `MAX_EXAMPLES`, evenly from the whole text."""
    if len(examples) <= MAX_EXAMPLES:
        return tuple(examples)
    return tuple(examples[index * len(examples) // MAX_EXAMPLES] for index in range(MAX_EXAMPLES))
