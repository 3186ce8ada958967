"""Checking of arguments, and what the width of a candidate may be given as.

Every complaint names the argument, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from secateur_kernels.transfer import CopyInGraph, kept_on_device

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
Keep = int | Sequence[int] | Tensor | None


class KernelArgumentError(ValueError):
    """An argument that the function cannot work with; the message names it."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name}: {value} given; {allowed}")
        self.name = name


@dataclass(frozen=True)
class Widths:
    """Units kept, for one candidate or several.

    Attributes:
        counts: as integers, where they are known on the host.
        on_device: as an int32 tensor [M], where they were given as one.
        single: given as one integer or not at all, so that the result has no candidate dimension.
    """

    counts: tuple[int, ...] | None
    on_device: Tensor | None
    single: bool

    def __len__(self) -> int:
        return len(self.counts) if self.counts is not None else len(self._tensor)

    @property
    def _tensor(self) -> Tensor:
        assert self.on_device is not None
        return self.on_device

    def host(self) -> tuple[int, ...]:
        """As integers; waits for the device if they are there."""
        return self.counts if self.counts is not None else tuple(self._tensor.tolist())

    def device(self, device: torch.device) -> Tensor:
        """As int32 [M] on a device, not to be written to; waits for nothing.

        Raises:
            KernelArgumentError: they are integers, and a CUDA graph is being captured.
        """
        if self.counts is None:
            return self._tensor
        try:
            return kept_on_device(self.counts, device)
        except CopyInGraph as error:
            raise KernelArgumentError(
                "keep", "integers inside a CUDA graph", "an int32 tensor on the device is allowed there"
            ) from error

    def per_input(self, x: Tensor) -> Widths:
        """One per entry of an input: the widest where all candidates share it. Waits for no device."""
        if x.dim() == 3 or len(self) == 1:
            return self
        if self.counts is not None:
            return Widths((max(self.counts),), None, True)
        return Widths(None, self._tensor.amax().reshape(1), True)


def widths(keep: Keep, limit: int, unit: str, device: torch.device, name: str = "keep") -> Widths:
    """The argument `keep` (or of that name), checked.

    Integers must lie in 0 to `limit`. A tensor stays on its device unread (so that a CUDA graph may
    hold it); what it says beyond `limit` counts as `limit`, below 0 as 0.

    Raises:
        KernelArgumentError: not one of these, out of range, or no candidate at all.
    """
    if keep is None:
        return Widths((limit,), None, True)
    if isinstance(keep, Tensor):
        return _device_widths(keep, device, name)
    if isinstance(keep, int) and not isinstance(keep, bool):
        _require_range(keep, limit, unit, name)
        return Widths((keep,), None, True)
    if not isinstance(keep, Sequence) or isinstance(keep, str | bytes):
        raise KernelArgumentError(
            name, f"a {type(keep).__name__}", "an int, several, or an int32 tensor is allowed"
        )
    if not keep:
        raise KernelArgumentError(name, "an empty sequence", "one width per candidate is needed")
    for count in keep:
        _require_range(count, limit, unit, name)
    return Widths(tuple(keep), None, False)


def require_ascending(name: str, keep: Widths) -> None:
    """Check the widths of a nest: a sequence, on the host, none below the one before.

    Raises:
        KernelArgumentError: they are not.
    """
    if keep.counts is None or keep.single:
        got = "a tensor" if keep.counts is None else "one width"
        raise KernelArgumentError(name, got, "a sequence of ascending integers is allowed")
    if any(a > b for a, b in pairwise(keep.counts)):
        raise KernelArgumentError(name, list(keep.counts), "widths must ascend")


def _device_widths(keep: Tensor, device: torch.device, name: str) -> Widths:
    if keep.dtype != torch.int32 or keep.dim() > 1:
        got = f"{str(keep.dtype).removeprefix('torch.')} {list(keep.shape)}"
        raise KernelArgumentError(name, got, "int32 with one entry per candidate is allowed")
    if keep.numel() == 0:
        raise KernelArgumentError(name, "an empty tensor", "one width per candidate is needed")
    if keep.device != device:
        raise KernelArgumentError(name, f"a tensor on {keep.device}", f"it must be on {device}")
    return Widths(None, keep.reshape(-1).contiguous(), keep.dim() == 0)


def _require_range(count: int, limit: int, unit: str, name: str) -> None:
    if type(count) is not int or not 0 <= count <= limit:
        raise KernelArgumentError(name, count, f"allowed are 0 to {limit} {unit}")


def require_matrix(name: str, tensor: Tensor, rows: int | None, columns: int | None, like: Tensor) -> None:
    """Check a weight: two dimensions of those sizes, contiguous rows, dtype and device of `like`.

    Raises:
        KernelArgumentError: it is not.
    """
    expected = [rows, columns]
    fits = tensor.dim() == 2 and all(
        want in (None, have) for want, have in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("any" if size is None else str(size) for size in expected)
        raise KernelArgumentError(name, f"shape {list(tensor.shape)}", f"it must be [{shape}]")
    require_alike(name, tensor, like)
    if tensor.numel() and tensor.stride(1) != 1:
        raise KernelArgumentError(
            name, f"strides {tensor.stride()}", "rows must be contiguous: call .contiguous()"
        )


def require_vector(name: str, tensor: Tensor | None, size: int, like: Tensor) -> None:
    """Check a bias or the like: [size], contiguous, dtype and device of `like`; None is fine.

    Raises:
        KernelArgumentError: it is not.
    """
    if tensor is None:
        return
    if tensor.shape != (size,):
        raise KernelArgumentError(name, f"shape {list(tensor.shape)}", f"it must be [{size}]")
    require_alike(name, tensor, like)
    if size > 1 and tensor.stride(0) != 1:
        raise KernelArgumentError(
            name, f"stride {tensor.stride(0)}", "it must be contiguous: call .contiguous()"
        )


def require_alike(name: str, tensor: Tensor, like: Tensor) -> None:
    """Check dtype and device against the first argument's.

    Raises:
        KernelArgumentError: they differ.
    """
    if tensor.dtype != like.dtype:
        raise KernelArgumentError(name, str(tensor.dtype), f"the input is {like.dtype}, so must this be")
    if tensor.device != like.device:
        raise KernelArgumentError(name, f"a tensor on {tensor.device}", f"the input is on {like.device}")


def require_input(
    name: str, tensor: Tensor, size: int | None = None, *, candidates: int | None = None
) -> None:
    """Check an input: [N, size], or [M, N, size] with one entry per candidate; contiguous rows, floating.

    Raises:
        KernelArgumentError: it is not.
    """
    if tensor.dtype not in FLOATS:
        raise KernelArgumentError(name, str(tensor.dtype), "float32, float16 and bfloat16 are allowed")
    if tensor.dim() not in (2, 3) or (size is not None and tensor.shape[-1] != size):
        raise KernelArgumentError(
            name, f"shape {list(tensor.shape)}", f"[N, {size}] or [M, N, {size}] is allowed"
        )
    if tensor.numel() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise KernelArgumentError(
            name, f"strides {tensor.stride()}", "rows must be contiguous: call .contiguous()"
        )
    if tensor.dim() == 3 and candidates is not None and tensor.shape[0] != candidates:
        raise KernelArgumentError(name, f"{tensor.shape[0]} candidates", f"keep has {candidates}")


def require_index(name: str, index: Tensor | None, limit: int, device: torch.device) -> None:
    """Check an index list: int32 [K] on the device, contiguous, K at most `limit`; entries are not read.

    Raises:
        KernelArgumentError: it is not.
    """
    if index is None:
        return
    if index.dim() != 1 or index.dtype != torch.int32 or len(index) > limit:
        got = f"{str(index.dtype).removeprefix('torch.')} {list(index.shape)}"
        raise KernelArgumentError(name, got, f"int32 with at most {limit} entries is allowed")
    if index.device != device:
        raise KernelArgumentError(name, f"a tensor on {index.device}", f"it must be on {device}")
    if len(index) > 1 and index.stride(0) != 1:
        raise KernelArgumentError(
            name, f"stride {index.stride(0)}", "it must be contiguous: call .contiguous()"
        )
