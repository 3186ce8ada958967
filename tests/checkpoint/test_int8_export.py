"""A model with weights of 8 bits: what is in the folder, and that vLLM serves it as the model it was.

The reference for what vLLM computes is the float model in vLLM itself: both round activations nowhere else.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur.checkpoint.export import export
from secateur.checkpoint.int8_export import export_int8, rounded
from secateur.checkpoint.source import open_source
from secateur.cli.commands import run
from secateur.client import Client
from secateur.errors import UnsupportedModel
from secateur.model.architecture import Architecture
from secateur.serve.process import served
from tests.checkpoint.test_export import slim_of

SHAPES = {
    "uniform": Architecture((1, 1, 1), (64, 64, 64)),
    "per-layer": Architecture((2, 1, 2), (64, 192, 128)),
    "removed": Architecture((0, 2, 1), (64, 0, 96)),
}


@pytest.mark.parametrize("rows", [torch.randn(5, 40), torch.zeros(2, 40), torch.eye(4) * 1e-30])
def test_a_number_is_off_by_half_a_step_at_most(rows: torch.Tensor) -> None:
    eight_bits, step = rounded(rows)
    assert eight_bits.dtype == torch.int8 and step.shape == (rows.shape[0], 1)
    assert bool((step > 0).all())
    assert bool(((eight_bits * step - rows).abs() <= step * 0.501).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_only_matrices_of_layers_are_rounded(shape: str, tiny_qwen2: Path, tmp_path: Path) -> None:
    model, source = slim_of(tiny_qwen2, SHAPES[shape])
    export_int8(model, source, tmp_path / "int8")
    tensors = load_file(tmp_path / "int8" / "model.safetensors")
    for name, tensor in tensors.items():
        is_matrix = name.startswith("model.layers.") and name.endswith("_proj.weight")
        assert (tensor.dtype == torch.int8) is is_matrix, name
        assert (f"{name}_scale" in tensors) is is_matrix, name
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (tmp_path / "int8" / "tokenizer.json").is_file()
    assert (tmp_path / "int8" / "modeling_secateur.py").is_file() is (config["model_type"] == "secateur")
    with pytest.raises(UnsupportedModel, match="quantised"):
        open_source(tmp_path / "int8")


def test_the_command(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "int8"
    assert run(["export", str(tiny_llama), "--int8", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bytes"] == (out / "model.safetensors").stat().st_size
    assert document["format"] == "INT8, compressed-tensors"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_vllm_serves_it(family: str, request: pytest.FixtureRequest, english: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    folders = {}
    for name, shape in SHAPES.items():
        model, source = slim_of(request.getfixturevalue(f"tiny_{family}"), shape)
        folders[f"{name}-float"], folders[f"{name}-int8"] = tmp_path / name, tmp_path / f"{name}-int8"
        export(model, source, tmp_path / name, None, torch.float32)
        export_int8(model, source, tmp_path / f"{name}-int8")
    options = ("--dtype", "float32", "--max-model-len", "256", "--kv-cache-memory", "16MiB")
    found: dict[str, tuple[float, float]] = {}
    with served(folders, *options) as server, Client(server.address) as client:
        for name in SHAPES:
            scores = [
                torch.tensor(client.score(f"{name}-{kind}", english[:300]).logprobs)
                for kind in ("float", "int8")
            ]
            assert not torch.equal(*scores)
            found[name] = (
                float((scores[1] - scores[0]).abs().mean()),
                float(torch.corrcoef(torch.stack(scores))[0, 1]),
            )
    # 8 bits of random weights, twice per product: single tokens are off by tenths, none by what a wrong
    # scale or order of rows would do (a correlation near 0).
    assert all(error < 0.3 and correlation > 0.9 for error, correlation in found.values()), found
