"""Launch configurations: one table, no tuning at run time.

A tile never depends on the number of tokens or on a candidate's width, so a value does not depend on
what it was computed together with, and no width compiles anew. Tiles were chosen so that every kernel
fits the shared memory of its architecture and spills nothing (the compile gate checks); none has been timed
on a GPU. So two tilings stay where there are two: `benchmarks.kernels` times both, and then one goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

# What a host without a GPU (interpreter, compile gate) stands in for.
ASSUMED_ARCHITECTURE = 90
ASSUMED_MULTIPROCESSORS = 2

# Tiles of tokens that are walked together, so that what they multiply by is read once for all of them: the
# states of 16 take 16 MB at 4096 in bf16, of 50 MB that the L2 cache of an H100 holds.
GROUP = 16

Tiling = Literal["plain", "walked"]
TILINGS: tuple[Tiling, ...] = ("plain", "walked")
DEFAULT: Tiling = "walked"  # where a kernel has both


@dataclass(frozen=True)
class Tile:
    """Sizes of the tiles that one program works on.

    Attributes:
        rows: tokens.
        columns: outputs.
        inner: summed over per step; at least 16, which is what tensor cores take.
        warps, stages: of the launch.
        blocks: for each multiprocessor, of programs that walk all tiles; 0 for a program per tile.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int
    blocks: int = 0

    def programs(self, items: int, device: torch.device) -> int:
        """How many walk so many items."""
        return min(items, self.blocks * _multiprocessors(device))

    @property
    def registers(self) -> int | None:
        """The most that a thread may take for blocks to run side by side; None where one is alone."""
        return 65536 // (32 * self.warps * self.blocks) // 8 * 8 if self.blocks > 1 else None


# (kernel, architecture, bytes per element); in the first, programs walk what the GPU copies by itself.
_WALKED: dict[tuple[str, int, int], Tile] = {
    ("linear_loss", 90, 2): Tile(128, 128, 64, 8, 3, blocks=2),
    ("linear_loss", 90, 4): Tile(64, 64, 32, 4, 3, blocks=2),
    ("linear_top_k", 90, 2): Tile(128, 64, 64, 8, 3, blocks=1),
    ("linear_top_k", 90, 4): Tile(64, 64, 32, 4, 3, blocks=1),
    ("gated_inner", 90, 2): Tile(128, 128, 64, 8, 3, blocks=1),
    ("gated_inner", 90, 4): Tile(64, 64, 32, 4, 2, blocks=1),
    ("linear_kl", 90, 2): Tile(128, 128, 64, 8, 4, blocks=1),
    ("linear_kl", 90, 4): Tile(64, 64, 32, 4, 2, blocks=1),
}
_PLAIN: dict[tuple[str, int, int], Tile] = {
    ("linear_loss", 90, 2): Tile(128, 256, 64, 8, 3),
    ("linear_loss", 80, 2): Tile(128, 128, 32, 8, 3),
    ("linear_loss", 90, 4): Tile(64, 64, 32, 4, 3),
    ("linear_loss", 80, 4): Tile(64, 64, 32, 4, 3),
    ("linear_top_k", 90, 2): Tile(128, 256, 64, 8, 3),
    ("linear_top_k", 80, 2): Tile(128, 128, 32, 8, 3),
    ("linear_top_k", 90, 4): Tile(64, 64, 32, 4, 3),
    ("linear_top_k", 80, 4): Tile(64, 64, 32, 4, 3),
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


def tile_for(kernel: str, dtype: torch.dtype, device: torch.device, tiling: Tiling = DEFAULT) -> Tile:
    """The tile of a kernel for a dtype on a device; newer and older architectures take the nearest row.

    Where there is no walked one, the plain one.
    """
    row = kernel, 90 if _architecture(device) >= 90 else 80, dtype.itemsize
    return _WALKED[row] if tiling == "walked" and row in _WALKED else _PLAIN[row]


@cache
def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return ASSUMED_ARCHITECTURE
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return ASSUMED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
