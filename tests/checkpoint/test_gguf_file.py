"""GGUF files: what comes out of a whole one, and the one line for each broken one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch

from secateur.checkpoint.source import ModelSource, open_source
from secateur.errors import BrokenCheckpoint, SecateurError, UnsupportedModel
from tests.checkpoint.converter import blocks, write_gguf


def refused(kind: type[SecateurError], file: Path, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        open_source(file)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_tensors_are_those_transformers_loads(smollm2: ModelSource) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(smollm2.path.parent), gguf_file=smollm2.path.name)
    expected = dict(model.named_parameters())
    found = smollm2.tensors()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name]), name


def test_config_can_be_saved_as_a_float_model(smollm2: ModelSource, tmp_path: Path) -> None:
    assert "quantization_config" not in smollm2.config.to_dict()
    smollm2.config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 30


def test_tokenizer_knows_the_chat_tokens(smollm2: ModelSource) -> None:
    tokenizer = smollm2.tokenizer()
    ids = tokenizer("<|im_start|>user\nHi<|im_end|>")["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.chat_template


@pytest.mark.parametrize("kept", [6, 30, 5000, 1_500_000, 0.5, -1])
def test_truncated(smollm2: ModelSource, tmp_path: Path, kept: float) -> None:
    size = smollm2.path.stat().st_size
    length = int(size * kept) if isinstance(kept, float) else kept % size
    file = tmp_path / "part.gguf"
    with smollm2.path.open("rb") as whole:
        file.write_bytes(whole.read(length))
    started = time.monotonic()
    refused(BrokenCheckpoint, file, "truncated")
    assert time.monotonic() - started < 2


def test_not_gguf(tmp_path: Path) -> None:
    for content in (b"", b"GG", b"PK\x03\x04" + b"x" * 100):
        file = tmp_path / "m.gguf"
        file.write_bytes(content)
        refused(BrokenCheckpoint, file, "nor a GGUF file")


def test_unsupported_version(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + b"\0" * 100)
    refused(UnsupportedModel, file, "GGUF version 1")


@pytest.mark.parametrize("place", range(24, 400, 47))
def test_damaged_header_never_escapes_as_another_exception(
    smollm2: ModelSource, tmp_path: Path, place: int
) -> None:
    content = bytearray(smollm2.path.read_bytes()[:200_000])
    content[place : place + 4] = b"\xff" * 4
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with pytest.raises((BrokenCheckpoint, UnsupportedModel)):
        open_source(file)


def test_written_file_comes_back(tiny_qwen2: Path, tmp_path: Path) -> None:
    file = write_gguf(tiny_qwen2, tmp_path / "tiny.gguf")
    dense, read = open_source(tiny_qwen2), open_source(file)
    expected = dense.tensors()
    found = read.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read.config.num_key_value_heads == 2


def test_tensor_of_no_family(tiny_qwen2: Path, tmp_path: Path) -> None:
    extra = {"blk.0.ffn_gate_inp.weight": torch.zeros(16).numpy()}
    file = write_gguf(tiny_qwen2, tmp_path / "tiny.gguf", tensors=extra)
    refused(UnsupportedModel, file, "ffn_gate_inp")


def dequantised_types() -> list[gguf.GGMLQuantizationType]:
    """What gguf can turn into floats."""
    from gguf.quants import _type_traits

    return [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, *_type_traits]


@pytest.mark.parametrize("kind", gguf.GGMLQuantizationType, ids=lambda kind: kind.name)
def test_types_of_tensors(
    tmp_path: Path, make_tiny: Callable[..., Path], kind: gguf.GGMLQuantizationType
) -> None:
    folder = make_tiny("qwen2", num_hidden_layers=1, hidden_size=256, intermediate_size=256)
    file = write_gguf(folder, tmp_path / "tiny.gguf", quantised=kind)
    if kind in dequantised_types():
        name = "model.layers.0.mlp.up_proj.weight"
        weights = open_source(file).tensors()[name]
        expected = gguf.dequantize(blocks(open_source(folder).tensors()[name].numpy(), kind), kind)
        assert torch.equal(weights, torch.from_numpy(expected))
    else:
        refused(UnsupportedModel, file, f"tensor type {kind.name} cannot be dequantised")


@pytest.fixture
def parts(scaled_llama: Path, tmp_path: Path) -> list[Path]:
    """A model in several files."""
    first = write_gguf(scaled_llama, tmp_path / "tiny.gguf", split=12)
    return sorted(first.parent.glob("tiny-*.gguf"))


@pytest.fixture(scope="module")
def scaled_llama(make_tiny: Callable[..., Path]) -> Path:
    factors = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 8192, **factors}
    return make_tiny("llama", rope_parameters=rope)


def test_parts_are_one_model(scaled_llama: Path, parts: list[Path]) -> None:
    assert len(parts) == 4
    dense, read = open_source(scaled_llama), open_source(parts[0])
    expected, found = dense.tensors(), read.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read.config.rope_parameters == dense.config.rope_parameters
    before = read.fingerprint
    damaged = bytearray(parts[1].read_bytes())
    damaged[-1] ^= 1
    parts[1].write_bytes(damaged)
    assert open_source(parts[0]).fingerprint != before


def test_parts_that_are_not_whole(parts: list[Path]) -> None:
    refused(UnsupportedModel, parts[1], "one of 4 parts of a GGUF file; give the first, .*-00001-of-00004")
    content = parts[2].read_bytes()
    parts[2].write_bytes(content[:-500])
    refused(BrokenCheckpoint, parts[0], "tiny-00003-of-00004.gguf: truncated")
    parts[2].write_bytes(parts[1].read_bytes())
    refused(BrokenCheckpoint, parts[0], "another part, by its header")
    parts[2].unlink()
    refused(BrokenCheckpoint, parts[0], "its part tiny-00003-of-00004.gguf is missing")


def test_tokenizer_has_only_the_tokens_of_the_file(make_tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_tiny("llama", num_hidden_layers=1)
    tokens = tmp_path / "renamed"
    shutil.copytree(folder, tokens)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tokens / name).read_text()
        (tokens / name).write_text(text.replace("<|endoftext|>", "<end>"))
    dense, read = open_source(tokens), open_source(write_gguf(tokens, tmp_path / "tiny.gguf"))
    assert read.tokenizer().get_vocab() == dense.tokenizer().get_vocab()
    text = "An <|endoftext|> of text, <end>"
    assert read.tokenizer()(text)["input_ids"] == dense.tokenizer()(text)["input_ids"]
    assert read.tokenizer().eos_token == "<end>"
