"""What is given as a model and is none: one line says what it is and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from secateur.checkpoint.source import check_location, open_source
from secateur.errors import BadInput

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
Make = Callable[[Path, Path], Path]  # of a whole model that may be changed, and an empty folder; what to give


def edit(folder: Path, **changes: object) -> Path:
    file = folder / "config.json"
    old = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in {**old, **changes}.items() if v is not None}))
    return folder


def renamed(old: str, new: str) -> Make:
    def make(model: Path, _: Path) -> Path:
        file = model / "model.safetensors"
        save_file({name.replace(old, new, 1): tensor for name, tensor in load_file(file).items()}, file)
        return model

    return make


def moved(*parts: str) -> Make:
    """The model in a folder of the one that is given."""

    def make(model: Path, empty: Path) -> Path:
        shutil.copytree(model, empty.joinpath(*parts))
        return empty

    return make


def with_files(**texts: str) -> Make:
    """A folder of these files; a double underscore stands for a dot."""

    def make(_: Path, empty: Path) -> Path:
        for name, text in texts.items():
            (empty / name.replace("__", ".")).write_text(text)
        return empty

    return make


def pointer(name: str) -> Make:
    def make(model: Path, _: Path) -> Path:
        (model / name).write_text(POINTER)
        return model

    return make


def only_pickled(model: Path, _: Path) -> Path:
    (model / "model.safetensors").rename(model / "model.pth")
    return model


def adapter_in_a_model_folder(model: Path, _: Path) -> Path:
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    return model


def two_checkpoints(model: Path, empty: Path) -> Path:
    for step in (500, 1000):
        shutil.copytree(model, empty / f"checkpoint-{step}")
    return empty


def weights_only(model: Path, empty: Path) -> Path:
    shutil.copy(model / "model.safetensors", empty)
    return empty


CASES: dict[str, tuple[Make, str]] = {
    "config": (lambda model, _: model / "config.json", r"one file of a model; give its folder, /.*tiny$"),
    "weights": (lambda model, _: model / "model.safetensors", "one file of a model; give its folder"),
    "tokenizer": (lambda model, _: model / "tokenizer.json", "one file of a model; give its folder"),
    "pickle": (
        lambda _, empty: with_files(consolidated__00__pth="x")(_, empty) / "consolidated.00.pth",
        "give its folder",
    ),
    "index": (
        lambda _, empty: (
            with_files(model__safetensors__index__json="{}")(_, empty) / "model.safetensors.index.json"
        ),
        "give its folder",
    ),
    "adapter": (
        with_files(adapter_config__json='{"base_model_name_or_path": "org/base"}'),
        "a PEFT adapter of org/base, no model: merge it into its model .*merge_and_unload",
    ),
    "damaged adapter": (with_files(adapter_config__json="["), "a PEFT adapter, no model"),
    "adapter beside the config": (adapter_in_a_model_folder, "a PEFT adapter of org/base"),
    "checkpoints of a run": (two_checkpoints, r"give .*/checkpoint-1000 \(1 more in this folder\)"),
    "one folder": (moved("inner"), "give .*/inner$"),
    "hub cache": (moved("snapshots", "0a1b"), "give .*/snapshots/0a1b$"),
    "tokenizer only": (with_files(tokenizer__json="{}"), "only a tokenizer: no config.json and no weights"),
    "weights only": (weights_only, "weights, but no config.json"),
    "diffusers": (with_files(model_index__json="{}"), "a diffusers pipeline"),
    "Meta": (with_files(params__json="{}", consolidated__00__pth="x"), "Meta's original format"),
    "Mistral": (with_files(params__json="{}", consolidated__safetensors="x"), "Mistral's original format"),
    "pickled weights": (only_pickled, r"only weights in pickle files .* convert the model to safetensors"),
    "MLX": (lambda model, _: edit(model, quantization={"bits": 4}), r"quantised \(MLX\)"),
    "bitsandbytes": (
        lambda model, _: edit(model, quantization_config={"quant_method": "bitsandbytes"}),
        r"quantised \(bitsandbytes\); give the original",
    ),
    "odd quantisation": (lambda model, _: edit(model, quantization_config=[1]), r"quantised \(unknown\)"),
    "no model type": (
        lambda model, _: edit(model, model_type=None),
        "names no model_type; supported: gemma3_text, ",
    ),
    "model type of no text": (lambda model, _: edit(model, model_type=3), "names no model_type"),
    "multimodal": (
        lambda model, _: edit(model, model_type="llava", text_config={"model_type": "llama"}),
        "architecture llava, whose text model is llama: the text model can be pruned once it is saved",
    ),
    "multimodal, not supported": (
        lambda model, _: edit(model, model_type="fuyu", text_config={"model_type": "persimmon"}),
        "architecture fuyu, whose text model is persimmon; supported",
    ),
    "not supported": (lambda model, _: edit(model, model_type="gpt2"), "architecture gpt2; supported"),
    "pointer for weights": (pointer("model.safetensors"), "Git LFS pointer .*; run git lfs pull in /"),
    "pointer for config": (pointer("config.json"), "Git LFS pointer"),
    "pointer for tokenizer": (pointer("tokenizer.json"), "Git LFS pointer"),
    "pointer for a GGUF file": (
        lambda _, empty: with_files(m__gguf=POINTER)(_, empty) / "m.gguf",
        "Git LFS pointer",
    ),
    "PEFT weights": (renamed("model.", "base_model.model.model."), "saved by PEFT .*merge_and_unload"),
    "compiled": (renamed("model.", "_orig_mod.model."), r"saved from a model under torch.compile"),
    "compiled layer": (renamed("model.layers.1.", "model.layers.1._orig_mod."), "under torch.compile"),
    "DDP": (renamed("model.", "module.model."), r"under DataParallel or DDP: save that of model\.module"),
    "without a head": (renamed("model.", ""), "save the model with AutoModelForCausalLM"),
}


@pytest.mark.parametrize(("make", "words"), CASES.values(), ids=CASES)
def test_one_line_says_what_it_is_and_what_to_do(
    tiny_llama: Path, tmp_path: Path, make: Make, words: str
) -> None:
    """Before transformers is imported, and when the model is opened, the same."""
    model, empty = tmp_path / "tiny", tmp_path / "empty"
    shutil.copytree(tiny_llama, model)
    empty.mkdir()
    given = make(model, empty)
    with pytest.raises(BadInput, match=words) as early:
        check_location(given)
    with pytest.raises(BadInput) as late:
        open_source(given)
    assert str(early.value) == str(late.value)
    assert "\n" not in str(early.value)
    assert early.value.field == "model"


def test_a_gguf_file_may_have_any_name(tmp_path: Path) -> None:
    """Some are called .bin: what is in a file decides."""
    file = tmp_path / "model.bin"
    file.write_bytes(b"GGUF")
    with pytest.raises(BadInput, match="truncated or damaged inside its header"):
        open_source(file)
