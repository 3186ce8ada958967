"""Operands that the GPU copies by itself, tile by tile (TMA): described on the host, loaded by coordinates.

What lies beyond a tensor's edge is loaded as 0.
"""

from __future__ import annotations

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ALIGNMENT = 16  # bytes, of a tensor and of each of its rows


def describable(*tensors: Tensor) -> bool:
    """Whether all of these [R, C] may be described: not empty, rows that start at multiples of 16 bytes."""
    return all(
        tensor.numel()
        and tensor.data_ptr() % ALIGNMENT == 0
        and tensor.stride(0) * tensor.element_size() % ALIGNMENT == 0
        for tensor in tensors
    )


def described(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """[R, C], to be loaded as tiles [rows, columns]."""
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [rows, columns])
