"""What a path is that is not a model folder, though people give it as one, and what to do about it.

Only names and the beginnings of files are read, so an answer takes no time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import BadInput, BrokenCheckpoint, UnsupportedModel

POINTER = b"version https://git-lfs.github.com/spec"
OWN_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin")
PICKLED = ("*.bin", "*.pth", "*.pt")
GGUF = b"GGUF"
PART_OF_A_MODEL = re.compile(
    r".*\.(safetensors|bin|pth|pt|index\.json)|(.*_)?config\.json|tokenizer\.(json|model)|special_tokens_map\.json"
)
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Prefix of weight names -> what saved them so, and how to save them again.
WRAPPERS = {
    "base_model.model.": "by PEFT around the model: save it again after merge_and_unload()",
    "_orig_mod.": "from a model under torch.compile: save that of model._orig_mod",
    "_fsdp_wrapped_module.": "from a model under FSDP: save its full state dict",
    "module.": "from a model under DataParallel or DDP: save that of model.module",
}


def check_file(reference: str, file: Path) -> None:
    """Check that a file may be a model, as a GGUF file may.

    Raises:
        BrokenCheckpoint: it is a pointer of Git LFS.
        BadInput: it is one file of a model.
    """
    check_no_pointer(file)
    if PART_OF_A_MODEL.fullmatch(file.name.lower()) and _beginning(file, GGUF) != GGUF:
        raise BadInput("model", reference, f"one file of a model; give its folder, {file.absolute().parent}")


def check_no_pointer(file: Path) -> None:
    """Check that a file is itself there, not only the pointer by which Git LFS would find it.

    Raises:
        BrokenCheckpoint: it is not.
        BadInput: it cannot be read.
    """
    if _beginning(file, POINTER) == POINTER:
        reason = f"a Git LFS pointer instead of the file; run git lfs pull in {file.absolute().parent}"
        raise BrokenCheckpoint("model", file, reason)


def check_folder(folder: Path) -> None:
    """Check that a folder which lacks its config or its weights is nothing that is known by another name.

    Raises:
        BadInput: it is no model (an adapter, a pipeline), or the model is in a folder in it.
        UnsupportedModel: it is in another format.
    """
    has_weights = any(any(folder.glob(pattern)) for pattern in OWN_WEIGHTS)
    if (folder / "adapter_config.json").is_file() and not has_weights:
        raise BadInput("model", folder, _adapter(folder / "adapter_config.json"))
    if (folder / "model_index.json").is_file():
        raise BadInput("model", folder, "a diffusers pipeline (model_index.json), no language model")
    if any(folder.glob("consolidated*.pth")):
        reason = "Meta's original format (consolidated.*.pth); give the Hugging Face form of this model"
        raise UnsupportedModel("model", folder, reason)
    if any(folder.glob("consolidated*.safetensors")):
        reason = "Mistral's original format (consolidated*.safetensors); give the Hugging Face form"
        raise UnsupportedModel("model", folder, reason)
    if inner := _inner_models(folder):
        others = f" ({len(inner) - 1} more in this folder)" if len(inner) > 1 else ""
        raise BadInput("model", folder, f"the model is in a folder of it; give {inner[0]}{others}")


def missing_config(folder: Path, tokenizer_files: Iterable[str]) -> str:
    """What a folder without ``config.json`` is that `check_folder` does not know."""
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"no config.json in this folder; to use its GGUF file give {ggufs[0]}"
    if any(any(folder.glob(pattern)) for pattern in (*OWN_WEIGHTS, *PICKLED, "*.safetensors")):
        return "weights, but no config.json in this folder; copy that of the original model beside them"
    if any((folder / name).is_file() for name in tokenizer_files):
        return "only a tokenizer: no config.json and no weights in this folder"
    return "no config.json in this folder"


def check_description(description: Mapping[str, Any], supported: Iterable[str], reference: str) -> None:
    """Check that a ``config.json`` is that of a language model that can be pruned, and not quantised.

    Raises:
        BrokenCheckpoint: it names no model type.
        UnsupportedModel: of another architecture, of several modalities, or quantised.
    """
    supported = sorted(supported)
    known = f"supported: {', '.join(supported)}"
    model_type = description.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BrokenCheckpoint("model", reference, f"config.json names no model_type; {known}")
    if model_type not in supported:
        text = description.get("text_config")
        text_type = text.get("model_type") if isinstance(text, Mapping) else None
        multimodal = f", whose text model is {text_type}" if text_type else ""
        hint = ": the text model can be pruned once it is saved by itself" if text_type in supported else ""
        raise UnsupportedModel("model", reference, f"architecture {model_type}{multimodal}{hint}; {known}")
    if quantiser := _quantiser(description):
        reason = f"weights are quantised ({quantiser}); give the original ones"
        raise UnsupportedModel("model", reference, reason)


def check_tensor_names(names: Iterable[str], folder: Path) -> None:
    """Check that weights are called what the model calls them, without a wrapper's prefix.

    Raises:
        BrokenCheckpoint: they have one; names what saved them.
    """
    for name in names:
        for prefix, saved in WRAPPERS.items():
            if f".{prefix}" in f".{name}":
                reason = f"tensor {name}: its name has {prefix.rstrip('.')} in it, so it was saved {saved}"
                raise BrokenCheckpoint("model", folder, reason)
        if name in ("embed_tokens.weight", "layers.0.self_attn.q_proj.weight"):
            reason = f"tensor {name} should be model.{name}: save the model with AutoModelForCausalLM"
            raise BrokenCheckpoint("model", folder, reason)


def _beginning(file: Path, like: bytes) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(len(like))
    except OSError as error:
        raise BadInput("model", file, error.strerror or "cannot be read") from error


def _adapter(file: Path) -> str:
    check_no_pointer(file)
    try:
        base = json.loads(file.read_text("utf-8"))["base_model_name_or_path"]
    except (ValueError, RecursionError, KeyError, TypeError):
        base = None
    of = f" of {base}" if base else ""
    return f"a PEFT adapter{of}, no model: merge it into its model (peft: merge_and_unload) and save that"


def _inner_models(folder: Path) -> list[Path]:
    """Folders in a folder that have a config: the latest checkpoint or revision first."""
    places = [*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")]
    places += folder.glob("*/adapter_config.json")
    return sorted({file.parent for file in places}, key=_latest_first)


def _latest_first(folder: Path) -> tuple[int, float, str]:
    step = CHECKPOINT.fullmatch(folder.name)
    age = -folder.stat().st_mtime if folder.parent.name == "snapshots" else 0.0
    return -int(step[1]) if step else 0, age, folder.name


def _quantiser(description: Mapping[str, Any]) -> str | None:
    """What quantised the weights; None if nothing did."""
    if isinstance(description.get("quantization"), Mapping):
        return "MLX"
    settings = description.get("quantization_config")
    if not settings:
        return None
    return str(settings.get("quant_method", "unknown")) if isinstance(settings, Mapping) else "unknown"
