"""Tokens of a tokenizer that have no row in the embedding, and the tokenizer without them.

Fine-tuning often adds tokens, for padding say, without making the embedding larger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from secateur.errors import BrokenCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
ADDED = "added_tokens_decoder"
KEPT_FILES = (TOKENIZER, CONFIG, "chat_template.jinja")


def extra_tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[str, ...]:
    """The tokens with an id from `rows` up, by their ids."""
    tokens = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    return tuple(token for _, token in tokens)


def without_extra_tokens(
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    load: Callable[[str], PreTrainedTokenizerBase],
    reference: str,
) -> PreTrainedTokenizerBase:
    """The tokenizer without its tokens with an id from `rows` up; other text is split as before.

    Args:
        load: reads a tokenizer from a folder.

    Raises:
        BrokenCheckpoint: it needs one of them, or has no ``tokenizer.json`` to take them out of.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        if not (folder / TOKENIZER).is_file():
            reason = f"no {TOKENIZER}, so `drop_extra_tokens` cannot take tokens out of its tokenizer"
            raise BrokenCheckpoint("model", reference, reason)
        for file in folder.iterdir():  # the same tokens again, in older forms
            if file.is_file() and file.name not in KEPT_FILES:
                file.unlink()
        document, settings = _read(folder / TOKENIZER), _read(folder / CONFIG)
        dropped = frozenset(extra_tokens(tokenizer, rows))
        _check_not_needed(document, dropped, reference)
        _write(folder / TOKENIZER, _reduced(document, rows))
        _write(folder / CONFIG, _reduced_settings(settings, dropped))
        reduced = load(name)
    reduced.name_or_path = tokenizer.name_or_path
    if left := extra_tokens(reduced, rows):
        reason = f"its tokenizer cannot do without {left[0]!r}, which has no row in the embedding"
        raise BrokenCheckpoint("model", reference, reason)
    return reduced


def drop_ids(settings: dict[str, Any], rows: int) -> dict[str, Any]:
    """Settings of a model or of generation without ids of tokens (``pad_token_id``, ...) from `rows` up."""
    kept = dict(settings)
    for key, value in settings.items():
        if key.endswith("_token_id") and value is not None:
            ids = value if isinstance(value, list) else [value]
            left = [index for index in ids if not (isinstance(index, int) and index >= rows)]
            if len(left) < len(ids):
                kept[key] = left or None
    return kept


def check_special_ids(settings: dict[str, Any], rows: int, reference: str) -> None:
    """Check that the padding token has a row: transformers builds no model whose has none.

    Raises:
        BrokenCheckpoint: it has none.
    """
    padding = settings.get("pad_token_id")
    if isinstance(padding, int) and padding >= rows:
        reason = (
            f"pad_token_id is {padding}, its embedding has {rows} rows; `drop_extra_tokens` of prune and "
            "evaluate drops it"
        )
        raise BrokenCheckpoint("model", reference, reason)


def _reduced(document: dict[str, Any], rows: int) -> dict[str, Any]:
    """What ``tokenizer.json`` says, without tokens from `rows` up."""
    model = dict(document["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: the place is the id
        model["vocab"] = vocabulary[:rows]
    else:
        model["vocab"] = kept = {token: index for token, index in vocabulary.items() if index < rows}
        if "merges" in model:
            prefix = model.get("continuing_subword_prefix") or ""
            model["merges"] = [merge for merge in model["merges"] if _is_possible(merge, prefix, kept)]
    padding = document.get("padding")
    return {
        **document,
        "model": model,
        "added_tokens": [token for token in document["added_tokens"] if token["id"] < rows],
        "padding": None if padding and padding["pad_id"] >= rows else padding,
    }


def _is_possible(merge: str | list[str], prefix: str, vocabulary: Collection[str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in vocabulary and right in vocabulary and left + right.removeprefix(prefix) in vocabulary


def _reduced_settings(settings: dict[str, Any], dropped: Collection[str]) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says, without the tokens."""
    kept = {}
    for key, value in settings.items():
        if key == ADDED:
            value = {index: token for index, token in value.items() if _content(token) not in dropped}
        elif key.endswith("_tokens") and isinstance(value, list):
            value = [token for token in value if _content(token) not in dropped]
        elif key.endswith("_tokens") and isinstance(value, dict):
            value = {name: token for name, token in value.items() if _content(token) not in dropped}
        elif key.endswith("_token") and _content(value) in dropped:
            continue
        kept[key] = value
    return kept


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def _check_not_needed(document: dict[str, Any], dropped: Collection[str], reference: str) -> None:
    """Refuse to drop a token that is put around all text, or stands for what is unknown."""
    model = document["model"]
    unknown = model.get("unk_token")
    if model.get("unk_id") is not None and isinstance(model["vocab"], list):
        unknown = model["vocab"][model["unk_id"]][0]
    roles = dict.fromkeys(_tokens_around(document.get("post_processor") or {}), "is put around text")
    for token, role in {**roles, unknown: "stands for what is unknown"}.items():
        if token in dropped:
            reason = f"its tokenizer needs the token {token!r}, which {role} but has no row in the embedding"
            raise BrokenCheckpoint("model", reference, reason)


def _tokens_around(processor: dict[str, Any]) -> Iterator[str]:
    """The tokens that a post-processor puts around text."""
    for inner in processor.get("processors", ()):
        yield from _tokens_around(inner)
    for special in processor.get("special_tokens", {}).values():  # of a template
        yield from special["tokens"]
    for name in ("cls", "sep"):  # of BERT and RoBERTa
        if name in processor:
            yield processor[name][0]


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
