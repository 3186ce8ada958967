"""Launch configurations: one table, no tuning at run time.

A tile never depends on the number of tokens or on a candidate's width, so a value does not depend on
what it was computed together with, and no width compiles anew. Rows were chosen so that every kernel
fits the shared memory of its architecture (the compile gate checks); they have not been timed on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# What a host without a GPU (interpreter, compile gate) stands in for.
ASSUMED_ARCHITECTURE = 90


@dataclass(frozen=True)
class Tile:
    """Sizes of the tiles that one program works on.

    Attributes:
        rows: tokens.
        columns: outputs.
        inner: summed over per step; at least 16, which is what tensor cores take.
        warps, stages: of the launch.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


_TABLE: dict[tuple[str, int, int], Tile] = {
    # (kernel, architecture, bytes per element)
    ("linear_loss", 90, 2): Tile(128, 256, 64, 8, 3),
    ("linear_loss", 80, 2): Tile(128, 128, 32, 8, 3),
    ("linear_loss", 90, 4): Tile(64, 64, 32, 4, 3),
    ("linear_loss", 80, 4): Tile(64, 64, 32, 4, 3),
    ("linear_kl", 90, 2): Tile(128, 128, 64, 8, 3),
    ("linear_kl", 80, 2): Tile(64, 128, 32, 8, 3),
    ("linear_kl", 90, 4): Tile(64, 64, 32, 4, 2),
    ("linear_kl", 80, 4): Tile(64, 64, 32, 4, 2),
    ("gated_inner", 90, 2): Tile(128, 128, 64, 8, 3),
    ("gated_inner", 80, 2): Tile(128, 64, 32, 8, 3),
    ("gated_inner", 90, 4): Tile(64, 64, 32, 4, 2),
    ("gated_inner", 80, 4): Tile(64, 64, 32, 4, 2),
    ("projection", 90, 2): Tile(128, 128, 64, 8, 3),
    ("projection", 80, 2): Tile(128, 128, 32, 8, 3),
    ("projection", 90, 4): Tile(64, 64, 32, 4, 3),
    ("projection", 80, 4): Tile(64, 64, 32, 4, 3),
    ("project_heads", 90, 2): Tile(128, 0, 64, 8, 3),  # columns: the head
    ("project_heads", 80, 2): Tile(128, 0, 32, 8, 3),
    ("project_heads", 90, 4): Tile(64, 0, 32, 4, 2),
    ("project_heads", 80, 4): Tile(64, 0, 32, 4, 2),
    ("attend", 90, 2): Tile(128, 64, 0, 8, 2),  # rows: queries, columns: keys, inner: the head
    ("attend", 80, 2): Tile(64, 64, 0, 4, 2),
    ("attend", 90, 4): Tile(32, 32, 0, 4, 2),
    ("attend", 80, 4): Tile(32, 32, 0, 4, 2),
}


def tile_for(kernel: str, dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile of a kernel for a dtype on a device; newer and older architectures take the nearest row."""
    return _TABLE[kernel, 90 if _architecture(device) >= 90 else 80, dtype.itemsize]


def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return ASSUMED_ARCHITECTURE
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
