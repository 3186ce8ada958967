"""The safetensors files of a Hugging Face folder, checked against truncation before they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.checkpoint.recognition import PICKLED, check_folder, check_no_pointer, check_tensor_names
from secateur.errors import BrokenCheckpoint

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class SafetensorsFiles:
    """The weights of one folder: its files and the shape of every tensor in them."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every tensor in its stored dtype, memory-mapped: bytes are read when touched."""
        from safetensors.torch import load_file

        merged: dict[str, torch.Tensor] = {}
        for file in self.files:
            merged.update(load_file(file))
        return merged


def open_safetensors(folder: Path) -> SafetensorsFiles:
    """Return the safetensors files of ``folder``.

    Raises:
        BrokenCheckpoint: there are none, a shard is missing, or a file is damaged or truncated.
    """
    files = tuple(_shards(folder))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        check_no_pointer(file)
        shapes.update(_checked_shapes(file))
    check_tensor_names(shapes, folder)
    return SafetensorsFiles(files, shapes)


def _shards(folder: Path) -> Iterable[Path]:
    if (folder / SINGLE).is_file():  # before an index, as transformers does
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        check_no_pointer(index)
        return _indexed_shards(folder, index)
    check_folder(folder)
    if any(any(folder.glob(pattern)) for pattern in PICKLED):
        raise BrokenCheckpoint(
            "model",
            folder,
            "has only weights in pickle files (.bin, .pth or .pt), which can run code when opened; "
            "convert the model to safetensors first",
        )
    raise BrokenCheckpoint("model", folder, f"no weights in this folder (neither {SINGLE} nor {INDEX})")


def _indexed_shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        shards = [folder / name for name in sorted(names)]
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        raise BrokenCheckpoint("model", index, f"not a safetensors index ({error})") from error
    for shard in shards:
        if shard.parent != folder or not os.path.isfile(shard):  # unlike Path's, false for an impossible name
            raise BrokenCheckpoint("model", folder, f"{INDEX} names {shard.name}, which is not in the folder")
    return shards


def _checked_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in the header of ``file``; the library compares the header with the file's size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        size = file.stat().st_size
        raise BrokenCheckpoint(
            "model", file, f"truncated or not a safetensors file ({size:,} bytes: {error})"
        ) from error
