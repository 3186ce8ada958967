"""The dense model as a checkpoint folder: what a server needs of a GGUF file, and a slim one's companion."""

from __future__ import annotations

from pathlib import Path

import torch

from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.model.dense import build_model


def export_dense(reference: str, folder: Path) -> None:
    """Write the model that `reference` names, uncut, in bf16 when it is a GGUF file.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel: as `open_source`.
        OutputFailed: as `export`.
    """
    source = open_source(reference)
    model = build_model(source.config, source.tensors(), source.reference)
    dtype = torch.bfloat16 if source.kind == "gguf" else model.dtype
    export(model, source, folder, None, dtype)
