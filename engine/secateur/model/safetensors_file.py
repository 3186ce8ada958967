"""The safetensors files of a Hugging Face folder, checked against truncation before they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import BrokenCheckpoint

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# safetensors itself refuses headers above 100 MB; anything larger is a damaged length field.
LARGEST_HEADER = 100_000_000


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
        shapes.update(_checked_shapes(file))
    return SafetensorsFiles(files, shapes)


def _shards(folder: Path) -> Iterable[Path]:
    index = folder / INDEX
    if index.is_file():
        return _indexed_shards(folder, index)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if any(folder.glob("pytorch_model*.bin")):
        raise BrokenCheckpoint(
            "MODEL",
            folder,
            "has only pytorch_model.bin weights, which can run code when opened; "
            "convert the model to safetensors first",
        )
    raise BrokenCheckpoint("MODEL", folder, f"no weights in this folder (neither {SINGLE} nor {INDEX})")


def _indexed_shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BrokenCheckpoint("MODEL", index, f"not a safetensors index ({error})") from error
    shards = [folder / name for name in names]
    for shard in shards:
        if shard.parent != folder or not shard.is_file():
            raise BrokenCheckpoint("MODEL", folder, f"{INDEX} names {shard.name}, which is not in the folder")
    return shards


def _checked_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in the header of ``file`` after comparing its length with the file's size."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_length = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_length > min(size - 8, LARGEST_HEADER):
            raise BrokenCheckpoint("MODEL", file, f"truncated or not a safetensors file ({size:,} bytes)")
        raw = stream.read(header_length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
        data_length = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise BrokenCheckpoint("MODEL", file, "not a safetensors file (its header is damaged)") from error
    expected = 8 + header_length + data_length
    if size != expected:
        raise BrokenCheckpoint(
            "MODEL", file, f"truncated or damaged: {size:,} bytes, its header announces {expected:,}"
        )
    return shapes
