"""Corpora: where text comes from, and how it becomes windows of tokens.

Protocol (design: "Perplexity protocol"): the whole text is tokenised as one stream without special
tokens and cut into non-overlapping windows; what does not fill a window is dropped.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.calibrate.documents import FORMATS, Chat, Document, chat_text, is_text_file, read_documents
from secateur.config.prune import PYDOC, SELF_CORPUS, is_corpus_file
from secateur.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

_PYDOC_PARTS = {"calibration": 0.7, "validation": 0.1, "test": 0.2}  # shares of the text
FIRST_RECORDS = 1000  # that are looked at before anything else is done
_PASSAGE = 120  # a paragraph of so many characters in two topics makes them one


@dataclass(frozen=True)
class Corpus:
    """A named text. `name` is what the user wrote; results are keyed by it.

    Attributes:
        documents: how many it is made of.
        chats: how many of them were chats, in the model's chat template.
        skipped: documents that were empty.
    """

    name: str
    text: str
    documents: int = 1
    chats: int = 0
    skipped: int = 0

    @property
    def digest(self) -> str:
        """Identity of the text, for studies and reports."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def contents(self, tokens: int) -> dict[str, int]:
        """What was read, for JSON documents; `tokens` of it were used."""
        return {
            "documents": self.documents,
            "chats": self.chats,
            "skipped": self.skipped,
            "characters": len(self.text),
            "tokens": tokens,
        }

    def describe(self, tokens: int) -> str:
        """What was read, in a line; `tokens` of it were used."""
        kinds = []
        if texts := self.documents - self.chats:
            kinds.append(f"{texts:,} {'document' if texts == 1 else 'documents'}")
        if self.chats:
            kinds.append(f"{self.chats:,} chats in the model's chat template")
        skipped = f", {self.skipped:,} empty ones skipped" if self.skipped else ""
        size = f"{len(self.text):,} characters, {tokens:,} tokens used"
        return f"{self.name}: {' and '.join(kinds)}{skipped}, {size}"


@dataclass(frozen=True)
class CorpusFiles:
    """A corpus as it was read, before its chats became text."""

    name: str
    documents: tuple[Document, ...]
    skipped: int

    def rendered(self, tokenizer: Any) -> Corpus:
        """The text: documents with an empty line between them, chats as the model's template writes them.

        Args:
            tokenizer: the model's; None for text that goes to no model as it is: chats are documents then.

        Raises:
            BadInput: a chat that cannot be rendered.
        """
        pieces: list[str] = []
        for index, document in enumerate(self.documents):
            is_chat = isinstance(document, Chat) and tokenizer is not None
            if index and not (is_chat and isinstance(self.documents[index - 1], Chat)):
                pieces.append("\n\n")
            pieces.append(
                chat_text(document, tokenizer, self.name) if isinstance(document, Chat) else document
            )
        chats = 0 if tokenizer is None else sum(isinstance(document, Chat) for document in self.documents)
        return Corpus(self.name, "".join(pieces), len(self.documents), chats, self.skipped)


def read_corpus(name: str) -> CorpusFiles:
    """The corpus called `name`: a file of text, a folder of such files, or an embedded text.

    Embedded are ``pydoc`` (the topics of Python's own documentation, in every Python) and its
    disjoint parts ``pydoc:calibration``, ``pydoc:validation``, ``pydoc:test``.

    Raises:
        BadInput: no such corpus, not text, or empty.
    """
    if is_corpus_file(name):
        files = _files(name)
        found: list[Document] = [document for file in files for document in read_documents(file)]
    else:
        found = [_pydoc(name)]
    documents = tuple(filter(_is_said, found))
    if not documents:
        raise BadInput("corpus", name, "the corpus is empty")
    return CorpusFiles(name, documents, len(found) - len(documents))


def load_corpus(name: str) -> Corpus:
    """The corpus called `name` as text without a model's template; as `read_corpus`."""
    corpus = read_corpus(name).rendered(None)
    if not corpus.text.strip():
        raise BadInput("corpus", name, "the corpus is empty")
    return corpus


def read_corpora(names: Sequence[str], *, with_self: bool = False) -> tuple[CorpusFiles, ...]:
    """The corpora of those names, in their order.

    Args:
        with_self: whether `SELF_CORPUS` may be among them; it comes without its text.

    Raises:
        BadInput: as `read_corpus` and `check_names`.
    """
    check_names(names, with_self=with_self)
    return tuple(CorpusFiles(name, (), 0) if name == SELF_CORPUS else read_corpus(name) for name in names)


def check_names(names: Sequence[str], *, with_self: bool = False) -> None:
    """Check that corpora are there, without reading them.

    Raises:
        BadInput: nothing named, one named twice, or one that is not there.
    """
    if not names:
        raise BadInput("corpus", "nothing", "name at least one corpus")
    if len(set(names)) < len(names):
        raise BadInput("corpus", ",".join(names), "a corpus is named twice")
    if SELF_CORPUS in names and not with_self:
        raise BadInput(
            "corpus", SELF_CORPUS, "a model's own text is only to calibrate on, as `corpus` of prune"
        )
    for name in names:
        if is_corpus_file(name):
            _files(name)
        elif name != SELF_CORPUS:
            _check_pydoc(name)


def check_corpora(names: Sequence[str], *, with_self: bool = False) -> None:
    """Check that corpora are there, and the beginning of each file of records, as far as takes no time.

    Raises:
        BadInput: as `read_corpora`.
    """
    check_names(names, with_self=with_self)
    for name in filter(is_corpus_file, names):
        if not any(_is_said(document) for file in _files(name) for document in _beginning(file)):
            read_corpus(name)  # empty, as far as was looked


def cut_windows(corpus: Corpus, tokenizer: Any, window: int, limit: int | None = None) -> Tensor:
    """Token windows of a corpus, [windows, window] int64, the first `limit` of them.

    Raises:
        BadInput: the corpus is shorter than one window, or the window cannot be predicted in.
    """
    import torch

    if window < 2:
        raise BadInput("window", window, "a window needs at least 2 tokens")
    text = corpus.text if limit is None else _enough(corpus.text, tokenizer, window * limit)
    ids = torch.tensor(_tokenize(tokenizer, text), dtype=torch.int64)
    count = len(ids) // window
    if count == 0:
        raise BadInput("corpus", corpus.name, f"{len(ids)} tokens, shorter than one window of {window}")
    count = count if limit is None else min(count, limit)
    return ids[: count * window].view(count, window)


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Windows of several corpora in turn, so that any stretch of them is a fair mixture."""
    import torch

    if len(parts) == 1:
        return parts[0]
    shortest = min(len(part) for part in parts)
    mixed = torch.stack([part[:shortest] for part in parts], dim=1)
    return mixed.reshape(-1, parts[0].shape[1])


def _beginning(file: Path) -> list[Document]:
    return list(itertools.islice(read_documents(file), FIRST_RECORDS))


def _is_said(document: Document) -> bool:
    return isinstance(document, Chat) or bool(document.strip())


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


def _files(name: str) -> list[Path]:
    """The file of that name, or those of the folder and the folders in it."""
    path = Path(name).expanduser()
    if os.path.isdir(path):  # unlike Path's, false for a name that no file can have
        files = [file for file in sorted(path.rglob("*")) if is_text_file(file, path)]
        if not files:
            raise BadInput(
                "corpus", name, f"the folder has no {', '.join('*' + form for form in FORMATS)} file"
            )
        return files
    if not os.path.isfile(path):
        raise BadInput("corpus", name, f"no such file or folder; give files or a folder of text, or {PYDOC}")
    return [path]


def _check_pydoc(name: str) -> str:
    """The part that is named, if one is."""
    part = name.partition(":")[2]
    if part and part not in _PYDOC_PARTS:
        raise BadInput("corpus", f"{PYDOC}:{part}", f"parts are {', '.join(_PYDOC_PARTS)}")
    return part


def _pydoc(name: str) -> str:
    from pydoc_data.topics import topics

    part = _check_pydoc(name)
    names = _pydoc_parts()[part] if part else sorted(topics)
    return "\n\n".join(topics[name] for name in names)


def _pydoc_parts() -> dict[str, list[str]]:
    """Topic names by part. Topics that quote each other stay together, or parts would share text."""
    from pydoc_data.topics import topics

    parts: dict[str, list[str]] = {name: [] for name in _PYDOC_PARTS}
    filled = dict.fromkeys(_PYDOC_PARTS, 0)
    related = _related(topics)
    for group in sorted(related, key=lambda names: (-sum(len(topics[name]) for name in names), names)):
        neediest = min(parts, key=lambda name: filled[name] / _PYDOC_PARTS[name])
        parts[neediest] += group
        filled[neediest] += sum(len(topics[name]) for name in group)
    return {name: sorted(members) for name, members in parts.items()}


def _related(topics: Mapping[str, str]) -> list[list[str]]:
    """Groups of topics that share a passage, directly or through others."""
    groups: dict[str, set[str]] = {name: {name} for name in sorted(topics)}
    first_in: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            passage = " ".join(paragraph.split())
            if len(passage) < _PASSAGE:
                continue
            other = first_in.setdefault(passage, name)
            if groups[other] is not groups[name]:
                merged = groups[other] | groups[name]
                groups.update(dict.fromkeys(merged, merged))
    return [sorted(group) for group in {id(group): group for group in groups.values()}.values()]
