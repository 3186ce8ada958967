"""Writing a slim model as a Hugging Face folder: whole or not at all.

Uniform shapes become the stock architecture, which loads anywhere; layers that lost both halves are
dropped first. Other shapes become a per-layer checkpoint that carries its configuration and
modelling files.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from secateur.checkpoint import configuration_secateur, modeling_secateur
from secateur.checkpoint.card import model_card
from secateur.checkpoint.completeness import check_range
from secateur.checkpoint.configuration_secateur import PER_LAYER_LISTS, slim_config, stock_config
from secateur.checkpoint.extra_tokens import drop_ids
from secateur.checkpoint.source import ModelSource, open_source
from secateur.checkpoint.verification import Verification, start_verification, verify
from secateur.model.decoder import DecoderModel, architecture_of, named_tensors
from secateur.storage import check_disk_space, new_folder, write_json

TRAVELLING_FILES = (configuration_secateur.__file__, modeling_secateur.__file__)
RECORD = "secateur.json"
KEYS_OF_THE_RUN = ("is_local", "local_files_only", "name_or_path", "trust_remote_code", "gguf_file", "config")


def export(
    model: DecoderModel,
    source: ModelSource,
    folder: Path,
    record: Mapping[str, Any] | None,
    dtype: torch.dtype,
) -> Verification:
    """Write `model` to `folder`, which must not exist; it appears once transformers has opened it.

    Args:
        model: the slim (or dense) model; its config is the dense one's.
        source: where the dense model came from: tokenizer and generation settings.
        record: what becomes ``secateur.json`` and the model card; None writes neither.
        dtype: dtype of the weights on disk.

    Raises:
        BadInput: a weight is too large for `dtype`.
        OutputFailed: the disk is full, the folder cannot be written, or transformers does not find the
            same model in it; nothing is left behind.
    """
    check_range(named_tensors(model), dtype)
    model = model.to(dtype)
    config, renumbered = describe(model)
    config.dtype = dtype
    config.tie_word_embeddings = model.tied
    tensors = {name: tensor.cpu().contiguous() for name, tensor in named_tensors(renumbered).items()}
    with new_folder(folder) as partial:
        write_files(partial, config, tensors, source)
        del tensors
        verification = verify(partial, model, source)
        if record is not None:
            document = {**record, "verified": verification.to_json()}
            write_json(partial / RECORD, document)
            (partial / "README.md").write_text(model_card(document), encoding="utf-8")
    return verification


def write_files(
    folder: Path, config: PreTrainedConfig, tensors: Mapping[str, Tensor], source: ModelSource
) -> None:
    """Write what a checkpoint consists of into a folder that is there.

    Args:
        tensors: by their names in the checkpoint.
        source: whose tokenizer and generation settings are written.

    Raises:
        OutputFailed: the disk has no room.
    """
    check_disk_space(folder, sum(tensor.nbytes for tensor in tensors.values()) + (16 << 20))
    config.save_pretrained(folder)
    _save_tokenizer(source, folder)
    if config.model_type == configuration_secateur.SecateurConfig.model_type:
        for file in TRAVELLING_FILES:
            shutil.copy(file, folder)
    save_torch_state_dict(_own_memory(tensors), folder, metadata={"format": "pt"})


def export_dense(reference: str, folder: Path) -> None:
    """Write the model that `reference` names, uncut, in bf16 when it is a GGUF file.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel: as `open_source`.
        OutputFailed: as `export`.
    """
    start_verification()
    source = open_source(reference)
    model = source.load_model()
    export(model, source, folder, None, torch.bfloat16 if source.kind == "gguf" else model.dtype)


def describe(model: DecoderModel) -> tuple[Any, DecoderModel]:
    """The config of the checkpoint, and the model with its layers numbered as that config has them."""
    shape = architecture_of(model)
    kept_layers = [i for i in range(shape.num_layers) if shape.groups[i] or shape.channels[i]]
    stock = stock_config(
        _shortened(model.config, kept_layers),
        [shape.groups[i] for i in kept_layers],
        [shape.channels[i] for i in kept_layers],
    )
    if stock is not None:
        # A GGUF file does not name its class; not every loader knows it by the model type.
        class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[stock.model_type]
        stock.architectures = model.config.architectures or [class_name]
        return stock, replace(model, layers=tuple(model.layers[i] for i in kept_layers))
    return slim_config(model.config, shape.groups, shape.channels), model


def weight_bytes(model: DecoderModel, dtype: torch.dtype) -> int:
    """Bytes of all weights in `dtype`."""
    return sum(tensor.numel() for tensor in named_tensors(model).values()) * dtype.itemsize


def _shortened(config: Any, kept_layers: list[int]) -> Any:
    shorter = copy.deepcopy(config)
    for name in PER_LAYER_LISTS:
        values = getattr(config, name, None)
        if values is not None:
            setattr(shorter, name, [values[index] for index in kept_layers])
    shorter.num_hidden_layers = len(kept_layers)
    return shorter


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without views: safetensors refuses part of a buffer, and tensors that share one."""
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in tensors.items()
    }


def _remove_keys_of_the_run(file: Path) -> None:
    """Leave out what transformers notes about how a tokenizer was opened, which is nobody else's matter."""
    if file.is_file():
        settings = json.loads(file.read_text("utf-8"))
        write_json(file, {key: value for key, value in settings.items() if key not in KEYS_OF_THE_RUN})


def _save_tokenizer(source: ModelSource, folder: Path) -> None:
    tokenizer = source.tokenizer()
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # what tokenizers' Rust half says when the disk is full
    _remove_keys_of_the_run(folder / "tokenizer_config.json")
    settings = source.path / "generation_config.json"
    if source.kind == "folder" and settings.is_file():
        if source.drop_extra_tokens:
            known = drop_ids(json.loads(settings.read_text("utf-8")), source.rows)
            write_json(folder / settings.name, known)
        else:
            shutil.copy(settings, folder)
