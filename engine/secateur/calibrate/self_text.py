"""Text that the dense model writes itself, for models without known data (corpus ``self``).

Every sequence starts with a random token and goes on by sampling from the model, as in LLM-QAT (arXiv
2305.17888, section 3.1); special tokens are never drawn. To train on, every other batch is chats: the model
goes on from where its template lets a user speak, and so writes the question too (Magpie, arXiv 2406.08464).
The text is kept beside the study: the same model, seed and number of tokens find it again, also where another
processor would have drawn other tokens.

Shape suffixes: B sequences, P tokens that they begin with, T tokens, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from secateur.calibrate.corpus import Corpus
from secateur.checkpoint.source import ModelSource
from secateur.checkpoint.transformers_module import transformers_module
from secateur.config.prune import SELF_CORPUS
from secateur.errors import BadInput
from secateur.model.compute import Compute
from secateur.model.decoder import DecoderModel
from secateur.progress import ProgressReporter
from secateur.storage import os_errors_as_output_failed, write_text

BATCH = 64
TEMPERATURE, TOP_P, TOP_K = 1.0, 0.95, 256
TOKEN_MARGIN = 1.05  # text is tokenised again, which may take fewer tokens than it was made of


def self_corpus(
    source: ModelSource,
    model: DecoderModel,
    compute: Compute,
    folder: Path,
    *,
    tokens: int,
    length: int,
    seed: int,
    reporter: ProgressReporter,
    chats: bool = False,
) -> Corpus:
    """At least about so many tokens of text from the model; read from `folder` where it lies there.

    Args:
        tokens: how many, over all sequences.
        length: tokens of a sequence.
        chats: whether every other batch is chats, where the model has a template for them.

    Raises:
        BadInput: the text that lies there is damaged.
        OutputFailed: the folder cannot be written.
    """
    kind = "self-chats" if chats else "self"
    file = folder / f"{kind}-{_key(source, tokens, length, seed)}.txt"
    if file.is_file():
        reporter.message(f"text of the model itself is there from an earlier run ({file.name})")
        return Corpus(SELF_CORPUS, _read(file))
    text = generate_text(
        model.to(compute.dtype, compute.whole_model_device),
        source.tokenizer(),
        tokens=tokens,
        length=length,
        seed=seed,
        reporter=reporter,
        chats=chats,
    )
    with os_errors_as_output_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return Corpus(SELF_CORPUS, text)


def _read(file: Path) -> str:
    """The text as it was written: line ends are part of it."""
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        reason = f"{file} is damaged ({error}); put a copy back, or remove it and have it written again"
        raise BadInput("corpus", SELF_CORPUS, reason) from error


def generate_text(
    model: DecoderModel,
    tokenizer: Any,
    *,
    tokens: int,
    length: int,
    seed: int,
    reporter: ProgressReporter,
    chats: bool = False,
) -> str:
    """Sequences of the model, a blank line between them; the same for a seed on the same machine.

    Args:
        model: in the dtype and on the device to compute with.
        chats: as for `self_corpus`.
    """
    module = transformers_module(model)
    special = sorted(set(tokenizer.all_special_ids))
    opening_1P = _chat_opening(tokenizer) if chats else None
    wanted = int(tokens * TOKEN_MARGIN)
    batch_size = min(BATCH, -(-wanted // length)) if chats else BATCH
    batches = max(1, -(-wanted // (batch_size * length)))
    reporter.stage(f"writing {batches * batch_size * length:,} tokens of text", batches)
    started, parts = time.perf_counter(), list[str]()
    forked = [] if model.device.type == "cpu" else [model.device.index]
    with torch.random.fork_rng(forked, device_type=model.device.type), torch.inference_mode():
        for batch in range(batches):
            torch.manual_seed(seed * 1_000_003 + batch)
            if opening_1P is not None and batch % 2 == 0:
                starts_BP = opening_1P.expand(batch_size, -1).to(model.device)
                written_BT = _sequences(module, starts_BP, [], length).cpu()
                parts += [_one_turn(row_T, opening_1P.shape[1], tokenizer) for row_T in written_BT]
            else:
                starts_B1 = _starts(tokenizer, special, batch_size).to(model.device)
                written_BT = _sequences(module, starts_B1, special, length).cpu()
                parts += tokenizer.batch_decode(written_BT, skip_special_tokens=True)
            rate = (batch + 1) * written_BT.numel() / (time.perf_counter() - started)
            reporter.step(f"{rate:,.0f} tokens/s")
    return "\n\n".join(part.strip() for part in parts)


def _starts(tokenizer: Any, special: list[int], count: int) -> Tensor:
    """A random token for each sequence, [B, 1]."""
    allowed = torch.ones(len(tokenizer))
    allowed[special] = 0.0
    return torch.multinomial(allowed, count, replacement=True)[:, None]


def _chat_opening(tokenizer: Any) -> Tensor | None:
    """What the template writes before a user's words, [1, P]; None where the model has no such template."""
    words = "What?"
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": words}], tokenize=False)
    except Exception:  # no template, or one that does not work: templates are programs
        return None
    before, found, _ = text.rpartition(words)
    if not found or not before:
        return None
    return torch.tensor([tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"]])


def _one_turn(row_T: Tensor, opening: int, tokenizer: Any) -> str:
    """A question and its answer, with the template's tokens; what the model writes after them is left out."""
    ends = (row_T[opening:] == tokenizer.eos_token_id).nonzero()[:, 0]
    kept = opening + int(ends[1]) + 1 if len(ends) > 1 else len(row_T)
    return tokenizer.decode(row_T[:kept], skip_special_tokens=False)


def _sequences(module: Module, starts_BP: Tensor, special: list[int], length: int) -> Tensor:
    """Sampled sequences, [B, P - 1 + length], that begin with `starts_BP`.

    Not transformers' own `generate`: its nucleus sampling sorts whole vocabularies in bf16, which took more
    than ten times as long as the model on a CPU. The nucleus is sought among the likeliest `TOP_K` here.
    """
    written, cache = [starts_BP], None
    special_ids = torch.tensor(special, dtype=torch.int64).to(starts_BP.device)
    while len(written) < length:
        output = module(written[-1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits_BV = output.logits[:, -1].float() / TEMPERATURE
        logits_BV.index_fill_(1, special_ids, -torch.inf)
        likeliest = logits_BV.topk(min(TOP_K, logits_BV.shape[1]))
        p_BK = likeliest.values.softmax(-1)
        p_BK = p_BK.masked_fill(p_BK.cumsum(-1) - p_BK >= TOP_P, 0.0)
        written.append(likeliest.indices.gather(1, torch.multinomial(p_BK, 1)))
    return torch.cat(written, 1)


def _key(source: ModelSource, tokens: int, length: int, seed: int) -> str:
    """What the text depends on."""
    depends = [source.fingerprint, tokens, length, seed, TEMPERATURE, TOP_P, TOP_K, BATCH]
    return hashlib.blake2b(json.dumps(depends).encode(), digest_size=6).hexdigest()
