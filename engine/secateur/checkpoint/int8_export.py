"""A model with weights of 8 bits, in the format of compressed-tensors, which vLLM loads.

Every matrix of the layers is rounded to the nearest of 255 steps, whose size each row has of its own;
activations are rounded by vLLM, token by token, as they come. Embedding, head, norms and biases stay.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.checkpoint.export import RECORD, describe, write_files
from secateur.checkpoint.source import ModelSource
from secateur.model.decoder import DecoderModel, dense_config, named_tensors
from secateur.storage import new_folder

STEPS = 127  # on either side of zero
_EIGHT_BITS = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_EIGHT_BITS, "strategy": "channel", "dynamic": False},
            "input_activations": {**_EIGHT_BITS, "strategy": "token", "dynamic": True},
        }
    },
}
"""What ``config.json`` says of it."""


def export_int8(model: DecoderModel, source: ModelSource, folder: Path) -> None:
    """Write a model with weights of 8 bits to `folder`, which must not exist.

    Raises:
        OutputFailed: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    config, renumbered = describe(replace(model, config=dense_config(model.config)))
    config.dtype = model.dtype
    config.tie_word_embeddings = model.tied
    config.quantization_config = QUANTIZATION
    tensors: dict[str, Tensor] = {}
    for name, tensor in named_tensors(renumbered).items():
        if tensor.ndim == 2 and name.startswith(f"{model.family.layers}."):
            tensors[name], tensors[f"{name}_scale"] = rounded(tensor)
        else:
            tensors[name] = tensor.contiguous()
    with new_folder(folder) as partial:
        write_files(partial, config, tensors, source)
        if source.kind == "folder" and (source.path / RECORD).is_file():
            shutil.copy(source.path / RECORD, partial)


def rounded(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 8 bits, and the size of a step in each row [O, 1], in float32."""
    wide_OI = weight_OI.float()
    step_O1 = (wide_OI.abs().amax(dim=1, keepdim=True) / STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    return (wide_OI / step_O1).round().to(torch.int8), step_O1
