"""Corpora: where text comes from, and how it becomes windows of tokens.

Protocol (design: "Perplexity protocol"): the whole text is tokenised as one stream without special
tokens and cut into non-overlapping windows; what does not fill a window is dropped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.errors import BadInput

_PYDOC_PARTS = {"calibration": range(0, 7), "validation": range(7, 8), "test": range(8, 10)}


@dataclass(frozen=True)
class Corpus:
    """A named text. `name` is what the user wrote; results are keyed by it."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """Identity of the text, for studies and reports."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()


def load_corpus(name: str) -> Corpus:
    """The corpus called `name`: a text file, a folder of ``*.txt`` files, or an embedded text.

    Embedded are ``pydoc`` (the topics of Python's own documentation, in every Python) and its
    disjoint parts ``pydoc:calibration``, ``pydoc:validation``, ``pydoc:test``.

    Raises:
        BadInput: no such corpus, not text, or empty.
    """
    text = _embedded(name) if name.split(":")[0] in _EMBEDDED else _read(name)
    if not text.strip():
        raise BadInput("--corpus", name, "the corpus is empty")
    return Corpus(name, text)


def load_corpora(names: str) -> tuple[Corpus, ...]:
    """The corpora of a comma-separated list, in its order.

    Raises:
        BadInput: as `load_corpus`, or nothing named, or one named twice.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise BadInput("--corpus", repr(names), "name at least one corpus")
    if len(set(wanted)) < len(wanted):
        raise BadInput("--corpus", names, "a corpus is named twice")
    return tuple(load_corpus(name) for name in wanted)


def cut_windows(corpus: Corpus, tokenizer: Any, window: int, limit: int | None = None) -> Tensor:
    """Token windows of a corpus, [windows, window] int64, the first `limit` of them.

    Raises:
        BadInput: the corpus is shorter than one window, or the window cannot be predicted in.
    """
    if window < 2:
        raise BadInput("--window", window, "a window needs at least 2 tokens")
    text = corpus.text if limit is None else _enough(corpus.text, tokenizer, window * limit)
    ids = torch.tensor(_tokenize(tokenizer, text), dtype=torch.int64)
    count = len(ids) // window
    if count == 0:
        raise BadInput("--corpus", corpus.name, f"{len(ids)} tokens, shorter than one window of {window}")
    count = count if limit is None else min(count, limit)
    return ids[: count * window].view(count, window)


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Windows of several corpora in turn, so that any stretch of them is a fair mixture."""
    if len(parts) == 1:
        return parts[0]
    shortest = min(len(part) for part in parts)
    mixed = torch.stack([part[:shortest] for part in parts], dim=1)
    return mixed.reshape(-1, parts[0].shape[1])


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _enough(text: str, tokenizer: Any, tokens: int) -> str:
    """A beginning of `text` that surely holds `tokens` tokens the same as the whole would give."""
    size = 8 * tokens
    while size < len(text):
        cut = text.rfind("\n", 0, size)
        head = text[: cut if cut > 0 else size]
        if len(_tokenize(tokenizer, head)) > tokens + 64:
            return head
        size *= 2
    return text


def _read(name: str) -> str:
    path = Path(name).expanduser()
    if os.path.isdir(path):  # unlike Path's, false for a name that no file can have
        files = sorted(path.glob("*.txt"))
        if not files:
            raise BadInput("--corpus", name, "the folder has no *.txt file")
        return "\n\n".join(_read(str(file)) for file in files)
    if not os.path.isfile(path):
        raise BadInput(
            "--corpus", name, f"unknown; give a text file, a folder of *.txt files, or {', '.join(_EMBEDDED)}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("--corpus", name, f"not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise BadInput("--corpus", name, f"cannot be read: {error.strerror}") from error


def _pydoc(part: str) -> str:
    from pydoc_data.topics import topics

    if part and part not in _PYDOC_PARTS:
        raise BadInput("--corpus", f"pydoc:{part}", f"parts are {', '.join(_PYDOC_PARTS)}")
    slots = _PYDOC_PARTS[part] if part else range(10)
    chosen = [topics[key] for index, key in enumerate(sorted(topics)) if index % 10 in slots]
    return "\n\n".join(chosen)


_EMBEDDED: dict[str, Callable[[str], str]] = {"pydoc": _pydoc}


def _embedded(name: str) -> str:
    family, _, part = name.partition(":")
    return _EMBEDDED[family](part)
