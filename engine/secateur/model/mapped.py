"""Weights that are not needed for a while: on disk, and read from there as if they were in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from safetensors.torch import load_file, save_file

from secateur.model.decoder import Block, tensors_of
from secateur.storage import check_disk_space, os_errors_as_output_failed


def on_disk(block: Block, folder: Path) -> Block:
    """The sub-block in a memory-mapped file of `folder`, on the host; the file is gone when the block is.

    Its pages are the system's to keep or to drop: they do not count as memory of this process.

    Raises:
        OutputFailed: the disk is full, or the folder cannot be written.
    """
    tensors = {name: tensor.cpu().clone() for name, tensor in tensors_of(block).items()}
    with os_errors_as_output_failed(folder):
        check_disk_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
        with NamedTemporaryFile(dir=folder, prefix=".weights-") as file:
            save_file(tensors, file.name)
            mapped = load_file(file.name)
    return replace(block, **mapped)
