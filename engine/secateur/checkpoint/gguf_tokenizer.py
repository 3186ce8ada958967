"""A tokenizer as llama.cpp reads it from a GGUF file.

llama.cpp does not read the rule by which a tokenizer splits text before merging; it knows the rules of some
models by name. So the rule is looked up here, and a tokenizer with another one is refused: its file would
load, and split text differently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from secateur.errors import UnsupportedModel

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
_LLAMA3 = _WORDS % r"\p{N}{1,3}"
_QWEN2 = _WORDS % r"\p{N}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*|"
    rf"\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
)
_BYTES = ("bytes",)
_GPT2 = ("gpt-2",)

# How text is split, and whether a word that is a token is taken whole -> llama.cpp's name.
PRE_TOKENIZERS: dict[tuple[tuple[tuple[str, ...], ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((("digits",), _GPT2), False): "smollm",
    ((("split", _LLAMA3), _BYTES), True): "llama-bpe",
    ((("split", _LLAMA3), _BYTES), False): "dbrx",
    ((("split", _QWEN2), _BYTES), False): "qwen2",
    ((("split", _TEKKEN), _BYTES), True): "tekken",
}


class TokenType(IntEnum):
    """Of llama.cpp."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int, reference: object
) -> None:
    """Write a tokenizer into a header.

    Args:
        rows: of the embedding; tokens are made up for those that have none.

    Raises:
        UnsupportedModel: no tokenizer of llama.cpp splits text as this one does.
    """
    description = _description(tokenizer, reference)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_of(description, reference))
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {entry["id"]: entry["special"] for entry in description["added_tokens"]}
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in range(rows)])
    writer.add_token_types([_type_of(index, names, added) for index in range(rows)])
    merges = description["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for role, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        index = getattr(tokenizer, f"{role}_token_id", None)
        if index is not None:
            add(index)
    encoded = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(encoded[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(encoded[-1] == tokenizer.eos_token_id)
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer_of(description: dict[str, Any], reference: object) -> str:
    """llama.cpp's name for how the tokenizer of a ``tokenizer.json`` splits text.

    Raises:
        UnsupportedModel: it has none.
    """
    model = description["model"]
    try:
        if model["type"] == "BPE" and not model.get("byte_fallback"):
            steps = tuple(_steps(description.get("pre_tokenizer")))
            return PRE_TOKENIZERS[steps, bool(model.get("ignore_merges"))]
    except KeyError:
        pass
    known = ", ".join(PRE_TOKENIZERS.values())
    reason = f"a tokenizer that splits text in a way llama.cpp has no name for, of those known here ({known})"
    raise UnsupportedModel("model", reference, reason)


def _description(tokenizer: PreTrainedTokenizerBase, reference: object) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModel("model", reference, "a tokenizer without a fast form (tokenizer.json)")
    return json.loads(backend.to_str())


def _steps(pre_tokenizer: dict[str, Any] | None) -> Iterator[tuple[str, ...]]:
    """The steps of a pre-tokenizer, as keys of `PRE_TOKENIZERS`; KeyError for one that none of them has."""
    if pre_tokenizer is None:
        raise KeyError
    match pre_tokenizer["type"]:
        case "Sequence":
            for step in pre_tokenizer["pretokenizers"]:
                yield from _steps(step)
        case "ByteLevel" if not pre_tokenizer["add_prefix_space"]:
            yield _GPT2 if pre_tokenizer["use_regex"] else _BYTES
        case "Digits" if pre_tokenizer["individual_digits"]:
            yield ("digits",)
        case "Split" if pre_tokenizer["behavior"] == "Isolated" and not pre_tokenizer["invert"]:
            yield ("split", pre_tokenizer["pattern"]["Regex"])
        case other:
            raise KeyError(other)


def _type_of(index: int, names: dict[int, str], added: dict[int, bool]) -> TokenType:
    if index not in names:
        return TokenType.UNUSED
    if index in added:
        return TokenType.CONTROL if added[index] else TokenType.USER_DEFINED
    return TokenType.NORMAL
