"""A checkpoint written in the format of another program: whole or not at all."""

from __future__ import annotations

from typing import Any

from secateur.checkpoint.source import check_location, open_source
from secateur.config.export import ExportOptions
from secateur.config.values import AUTO
from secateur.storage import check_disk_space, check_new_path, new_file, os_errors_as_output_failed


def check_before_start(options: ExportOptions) -> None:
    """Check what can be known before torch is imported.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, BackendUnavailable: no such model, or what is to be
            written exists or cannot be made.
    """
    check_location(options.model)
    if options.gguf is not None:
        check_new_path("gguf", options.gguf)


def convert(options: ExportOptions) -> dict[str, Any]:
    """Write what was asked for; returns what it is.

    Raises:
        UnsupportedModel: the other program has nothing that is the same as this model.
        OutputFailed: it could not be written; nothing is left behind.
    """
    from secateur.checkpoint.gguf_export import DTYPES, gguf_bytes, gguf_model, write_gguf

    assert options.gguf is not None
    source = open_source(options.model)
    model = source.load_model()
    dtype = options.dtype
    if dtype == AUTO:
        stored = {stored: name for name, stored in DTYPES.items()}
        dtype = "bf16" if source.kind == "gguf" else stored.get(model.dtype, "f32")
    shaped = gguf_model(model, options.model)
    with os_errors_as_output_failed(options.gguf):
        options.gguf.absolute().parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(options.gguf.absolute().parent, gguf_bytes(shaped, dtype) + (16 << 20))
    with new_file(options.gguf) as partial:
        write_gguf(shaped, source, partial, dtype)
    return {
        "out": str(options.gguf),
        "format": f"GGUF, {shaped.architecture}, {dtype}",
        "bytes": options.gguf.stat().st_size,
    }
