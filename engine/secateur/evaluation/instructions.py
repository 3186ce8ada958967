"""Does a slim model still follow instructions? Its answers to 200 short ones beside the dense model's.

Perplexity says little about it: calibrated on articles, a model may keep its perplexity and lose its manners.
Two figures, both against the dense model, so that no judge is needed: how often the greedy answer begins with
the same sentence, and how likely the slim model finds the dense model's answers.

Shape suffixes: B prompts, T tokens, N tokens of answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from secateur.checkpoint.transformers_module import transformers_module
from secateur.errors import BadInput
from secateur.model.decoder import DecoderModel
from secateur.progress import ProgressReporter

PROMPTS = tuple(Path(__file__).with_name("instructions.txt").read_text("utf-8").splitlines())
ANSWER_TOKENS = 32
BATCH = 20
_SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)|\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Answers:
    """Greedy answers of one model, without the token that ends them.

    Attributes:
        ids: tokens of each.
        texts: what they say.
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]


def render_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """The first `count` instructions, laid out by the model's chat template; token ids of each.

    Raises:
        BadInput: the model has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput("instructions", count, "the model has no chat template, so it follows none")
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:count]]
    return [
        tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True),
                  add_special_tokens=False)["input_ids"]
        for chat in chats
    ]  # fmt: skip


@torch.inference_mode()
def answer(
    module: Any, tokenizer: Any, prompts: Sequence[list[int]], title: str, reporter: ProgressReporter
) -> Answers:
    """Greedy answers of at most `ANSWER_TOKENS` tokens.

    Args:
        module: transformers' of a model.
    """
    end = tokenizer.eos_token_id
    ids: list[tuple[int, ...]] = []
    reporter.stage(title, math.ceil(len(prompts) / BATCH))
    for batch in _batches(prompts):
        padded_BT, mask_BT = _padded_left(batch, end or 0, module.device)
        found_BT = module.generate(
            padded_BT,
            attention_mask=mask_BT,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end or 0,
        )
        for row in found_BT[:, padded_BT.shape[1] :].tolist():
            ids.append(tuple(row[: row.index(end)] if end in row else row))
        reporter.step()
    return Answers(tuple(ids), tuple(tokenizer.decode(row, skip_special_tokens=True) for row in ids))


@torch.inference_mode()
def mean_log_probability(module: Any, prompts: Sequence[list[int]], answers: Answers) -> float:
    """Of the tokens of answers after their prompts: nats per token, the mean over all tokens."""
    total, tokens = 0.0, 0
    pairs = [(prompt, list(ids)) for prompt, ids in zip(prompts, answers.ids, strict=True) if ids]
    for batch in _batches(pairs):
        padded_BT, mask_BT = _padded_left([prompt + ids for prompt, ids in batch], 0, module.device)
        logits = module(padded_BT, attention_mask=mask_BT, logits_to_keep=ANSWER_TOKENS + 1).logits
        for (_, ids), row in zip(batch, logits, strict=True):
            wanted_N = torch.tensor(ids, device=row.device)
            logp_NV = row[-len(ids) - 1 : -1].float().log_softmax(-1)
            total += float(logp_NV.gather(1, wanted_N[:, None]).sum())
            tokens += len(ids)
    return total / max(1, tokens)


def first_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark, or end of line; without case."""
    found = _SENTENCE.match(text.strip())
    return found.group().strip().casefold() if found else ""


def agreement(one: Answers, other: Answers) -> tuple[float, float]:
    """The share of answers that begin with the same sentence, and its standard error.

    The error counts two more of either kind (Agresti and Coull, 1998): none or all of 40 is no certainty.
    """
    same = [first_sentence(a) == first_sentence(b) for a, b in zip(one.texts, other.texts, strict=True)]
    share = fmean(same)
    smoothed = (sum(same) + 2) / (len(same) + 4)
    return share, math.sqrt(smoothed * (1 - smoothed) / (len(same) + 4))


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _padded_left(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of the same length, [B, T] both, and a mask of what is not padding."""
    length = max(map(len, rows))
    ids = [[pad] * (length - len(row)) + row for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def compare(
    dense: DecoderModel,
    slim: DecoderModel,
    tokenizer: Any,
    count: int,
    reporter: ProgressReporter,
) -> dict[str, Any]:
    """The two figures, with a few answers to look at.

    Args:
        dense, slim: in the dtype to compute in, on one device.
        count: instructions, at most those there are.
    """
    prompts = render_prompts(tokenizer, count)
    module = transformers_module(dense)
    expected = answer(module, tokenizer, prompts, "the dense model following instructions", reporter)
    dense_likely = mean_log_probability(module, prompts, expected)
    module = transformers_module(slim)  # in place of the dense one's
    found = answer(module, tokenizer, prompts, "following instructions", reporter)
    share, stderr = agreement(expected, found)
    return {
        "prompts": len(prompts),
        "same_first_sentence": share,
        "stderr": stderr,
        "log_probability_of_dense_answers": {
            "dense": dense_likely,
            "slim": mean_log_probability(module, prompts, expected),
        },
        "examples": [
            {"instruction": prompt, "dense": a, "slim": b}
            for prompt, a, b in zip(PROMPTS[:5], expected.texts, found.texts, strict=False)
        ],
    }
