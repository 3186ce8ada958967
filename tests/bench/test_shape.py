"""What a step has to read and compute: as counted from the modules themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.bench.models import ModelInfo, checkpoint_info, read_config
from secateur.bench.shape import read_shape
from secateur.checkpoint.configuration_secateur import slim_config
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from secateur.errors import BadInput

GROUPS, CHANNELS = (0, 2, 1), (192, 64, 0)


@pytest.fixture(scope="module")
def slim(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads and channels differ between layers; layer 0 has no attention."""
    from transformers import AutoConfig

    folder = tmp_path_factory.mktemp("slim")
    config = slim_config(AutoConfig.from_pretrained(tiny_llama), GROUPS, CHANNELS)
    SecateurForCausalLM(config).save_pretrained(folder)
    record = {"slim": {"perplexity": {"pydoc:test": 12.5}}}
    (folder / "secateur.json").write_text(json.dumps(record))
    return folder


def weights(folder: Path) -> dict[str, int]:
    """Numbers in each weight, by its name."""
    from safetensors.torch import load_file

    return {name: tensor.numel() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_dense(tiny_llama: Path) -> None:
    shape = read_shape(tiny_llama, read_config(tiny_llama))
    assert (shape.heads, shape.kv_heads, shape.head_dim) == ((4,) * 3, (2,) * 3, 32)
    assert shape.parameters == sum(weights(tiny_llama).values())
    assert shape.embedding == 300 * 128 and not shape.tied
    assert shape.kv_bytes_per_token("float32") == 3 * 2 * 2 * 32 * 4


def test_slim(slim: Path) -> None:
    shape = read_shape(slim, read_config(slim))
    assert (shape.heads, shape.kv_heads) == ((0, 4, 2), (0, 2, 1))
    assert shape.kv_bytes_per_token("bfloat16") == 3 * 2 * 32 * 2


def test_least_work_is_counted(slim: Path) -> None:
    shape = read_shape(slim, read_config(slim))
    held = weights(slim)
    layers = sum(
        count for name, count in held.items() if "embed_tokens" not in name and "lm_head" not in name
    )
    head, embedding = held["lm_head.weight"], held["model.embed_tokens.weight"]
    assert shape.decode_bytes(3, 100, "bfloat16") == 2 * (layers + head) + 3 * 100 * shape.kv_bytes_per_token(
        "bfloat16"
    )
    attention = 4 * (4 + 2) * 32  # per token looked back at: a score and a sum per query head
    assert shape.decode_flops(3, 100) == 3 * (2 * (layers + head) + 100 * attention)
    # A prompt looks back at half its length on average, and only its last token needs the head.
    assert shape.prefill_flops(2, 50) == 2 * (2 * layers * 50 + 50 * 25 * attention + 2 * head)
    assert embedding == head


def test_a_tied_head_is_read_once(tiny_qwen3: Path) -> None:
    shape = read_shape(tiny_qwen3, read_config(tiny_qwen3))
    assert shape.tied and shape.decode_bytes(0, 0, "float32") == 4 * sum(weights(tiny_qwen3).values())


def test_facts(slim: Path, tiny_llama: Path) -> None:
    found = checkpoint_info("slim", slim, "float32")
    assert found.perplexity == {"pydoc:test": 12.5}
    assert found.weight_bytes == 4 * (found.parameters or 0) and found.architecture == "SecateurForCausalLM"
    assert not checkpoint_info("dense", tiny_llama).perplexity
    told = ModelInfo("slim", version="2", dtype="float32").completed_by(found)
    assert (told.version, told.parameters) == ("2", found.parameters)


def test_no_checkpoint(tmp_path: Path, tiny_llama: Path, editable: Callable[[Path], Path]) -> None:
    with pytest.raises(BadInput, match="no checkpoint folder"):
        checkpoint_info("x", tmp_path)
    damaged = editable(tiny_llama)
    (damaged / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint_info("x", damaged)
    (damaged / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no \*.safetensors"):
        checkpoint_info("x", damaged)
