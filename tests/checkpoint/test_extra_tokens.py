"""Tokenizers with more tokens than the embedding has rows: named, or left out if asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from secateur.checkpoint.export import export
from secateur.checkpoint.extra_tokens import drop_ids
from secateur.checkpoint.source import open_source
from secateur.errors import BrokenCheckpoint
from tests.checkpoint.converter import write_gguf

ROWS = 300
Editable = Callable[[Path], Path]


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_error_names_them_and_the_way_out(extended_llama: Path) -> None:
    with pytest.raises(BrokenCheckpoint) as caught:
        open_source(extended_llama)
    assert caught.value.allowed == (
        "its tokenizer has 304 tokens, its embedding only 300 rows: none for '<think>', '</think>', '[PAD]', "
        "'<tool>'; `drop_extra_tokens` of prune and evaluate leaves them out"
    )


def test_of_many_the_first_five_are_named(make_tiny: Callable[..., Path]) -> None:
    with pytest.raises(BrokenCheckpoint, match=r"none for ('[^']+', ){4}'[^']+' and 95 more; `drop_extra"):
        open_source(make_tiny("llama", vocab_size=200, num_hidden_layers=1))


def test_text_is_split_as_before_without_them(extended_llama: Path, tiny_llama: Path, english: str) -> None:
    source = open_source(extended_llama, drop_extra_tokens=True)
    reduced, plain = source.tokenizer(), open_source(tiny_llama).tokenizer()
    assert max(reduced.get_vocab().values()) == ROWS - 1
    text = english[:5000] + " [PAD] <think>x</think> <tool>"
    assert reduced(text)["input_ids"] == plain(text)["input_ids"]
    assert reduced.decode(reduced(text)["input_ids"]) == text
    assert reduced.pad_token is None
    assert reduced.eos_token == plain.eos_token
    assert source.config.pad_token_id is None
    assert source.fingerprint == open_source(extended_llama, drop_extra_tokens=True).fingerprint


def test_the_exported_checkpoint_has_none_of_them(extended_llama: Path, tmp_path: Path) -> None:
    source = open_source(extended_llama, drop_extra_tokens=True)
    export(source.load_model(), source, tmp_path / "out", None, torch.float32)
    assert not open_source(tmp_path / "out").extra_tokens  # neither refused nor in need of the option
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert max(tokenizer.get_vocab().values()) == ROWS - 1
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings == {"pad_token_id": None, "eos_token_id": [1]}
    ids = tokenizer("the [PAD] of <tool>", return_tensors="pt")["input_ids"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits.isfinite().all()
    for file in (tmp_path / "out").glob("*.json"):
        assert "[PAD]" not in file.read_text(), file.name


def test_tokens_of_the_vocabulary_itself_go_with_their_merges(
    make_tiny: Callable[..., Path], english: str
) -> None:
    """What a tokenizer trained for fewer tokens would be: merges are in the order of their ids."""
    source = open_source(make_tiny("llama", vocab_size=280, num_hidden_layers=1), drop_extra_tokens=True)
    tokenizer = source.tokenizer()
    assert sorted(tokenizer.get_vocab().values()) == list(range(280))
    ids = tokenizer(english[:5000])["input_ids"]
    assert max(ids) < 280
    assert tokenizer.decode(ids) == english[:5000]


def test_a_unigram_tokenizer_is_cut_at_its_end(tiny_llama: Path, editable: Editable, english: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = editable(tiny_llama)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=320, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(english.splitlines()[:2000], trainer)
    size = tokenizer.get_vocab_size()
    assert size > ROWS
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="[PAD]"
    ).save_pretrained(folder)
    with pytest.raises(BrokenCheckpoint, match=f"has {size + 1} tokens, its embedding only 300 rows"):
        open_source(folder)
    reduced = open_source(folder, drop_extra_tokens=True).tokenizer()
    assert sorted(reduced.get_vocab().values()) == list(range(ROWS))
    assert max(reduced(english[:2000])["input_ids"]) < ROWS


def test_a_gguf_file_alike(tiny_llama: Path, tmp_path: Path) -> None:
    file = write_gguf(tiny_llama, tmp_path / "tiny.gguf", extra_tokens=["<think>", "</think>"])
    with pytest.raises(BrokenCheckpoint, match=r"none for '<think>'.*`drop_extra_tokens`"):
        open_source(file)
    tokenizer = open_source(file, drop_extra_tokens=True).tokenizer()
    assert max(tokenizer.get_vocab().values()) == ROWS - 1


def test_a_token_that_is_put_around_text_cannot_be_dropped(extended_llama: Path) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<tool>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<tool>": {"id": "<tool>", "ids": [303], "tokens": ["<tool>"]}},
    }
    edit_json(extended_llama / "tokenizer.json", post_processor=template)
    with pytest.raises(BrokenCheckpoint, match="needs the token '<tool>', which is put around text"):
        open_source(extended_llama, drop_extra_tokens=True).tokenizer()


def test_a_padding_id_without_a_row_is_refused_or_left_out(tiny_llama: Path, editable: Editable) -> None:
    """transformers cannot build such a model."""
    folder = editable(tiny_llama)
    edit_json(folder / "config.json", pad_token_id=ROWS)
    with pytest.raises(BrokenCheckpoint, match="pad_token_id is 300, its embedding has 300 rows"):
        open_source(folder)
    source = open_source(folder, drop_extra_tokens=True)
    assert source.config.pad_token_id is None
    assert not source.drops_tokens


def test_only_ids_without_a_row_are_dropped() -> None:
    settings = {
        "pad_token_id": 9,
        "eos_token_id": [2, 9],
        "bos_token_id": 1,
        "sep_token_id": None,
        "top_k": 50,
    }
    assert drop_ids(settings, 9) == {**settings, "pad_token_id": None, "eos_token_id": [2]}
