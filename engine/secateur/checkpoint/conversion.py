"""A checkpoint written in the format of another program: whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.checkpoint.source import ModelSource, check_location, open_source
from secateur.config.export import ExportOptions
from secateur.config.values import AUTO
from secateur.storage import check_disk_space, check_new_path, new_file, os_errors_as_output_failed

if TYPE_CHECKING:
    from secateur.model.decoder import DecoderModel


def check_before_start(options: ExportOptions) -> None:
    """Check what can be known before torch is imported.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, BackendUnavailable: no such model, or what is to be
            written exists or cannot be made.
    """
    check_location(options.model)
    for name, path in (("gguf", options.gguf), ("int8", options.int8)):
        if path is not None:
            check_new_path(name, path)


def convert(options: ExportOptions) -> dict[str, Any]:
    """Write what was asked for; returns what it is.

    Raises:
        UnsupportedModel: the other program has nothing that is the same as this model.
        OutputFailed: it could not be written; nothing is left behind.
    """
    source = open_source(options.model)
    model = source.load_model()
    if options.int8 is not None:
        return _int8(model, source, options.int8)
    assert options.gguf is not None
    return _gguf(model, source, options.gguf, options.dtype)


def _int8(model: DecoderModel, source: ModelSource, folder: Path) -> dict[str, Any]:
    import torch

    from secateur.checkpoint.int8_export import export_int8

    if source.kind == "gguf":
        model = model.to(torch.bfloat16)
    export_int8(model, source, folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"out": str(folder), "format": "INT8, compressed-tensors", "bytes": size}


def _gguf(model: DecoderModel, source: ModelSource, file: Path, dtype: str) -> dict[str, Any]:
    from secateur.checkpoint.gguf_export import DTYPES, gguf_bytes, gguf_model, write_gguf

    if dtype == AUTO:
        stored = {stored: name for name, stored in DTYPES.items()}
        dtype = "bf16" if source.kind == "gguf" else stored.get(model.dtype, "f32")
    shaped = gguf_model(model, source.reference)
    with os_errors_as_output_failed(file):
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(file.absolute().parent, gguf_bytes(shaped, dtype) + (16 << 20))
    with new_file(file) as partial:
        write_gguf(shaped, source, partial, dtype)
    return {
        "out": str(file),
        "format": f"GGUF, {shaped.architecture}, {dtype}",
        "bytes": file.stat().st_size,
    }
