"""The last projection of a sub-block, bounded by what each candidate keeps.

Shape suffixes: M candidates, N tokens, C inner channels, H outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur_kernels.arguments import (
    Keep,
    KernelArgumentError,
    Widths,
    require_alike,
    require_ascending,
    require_input,
    require_matrix,
    require_vector,
    widths,
)
from secateur_kernels.backend import Backend, form_of, implementation, with_gradients
from secateur_kernels.transfer import to_device


@dataclass(frozen=True)
class ProjectionTable:
    """One projection per candidate, as a block library holds them: each [H, C_m] in memory of its own.

    The kernels find them by address, read from device memory at run time: which weights a launch
    uses is data, not code. Keep the table alive as long as launches (or graphs) use it.
    """

    weights: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not self.weights:
            raise KernelArgumentError(
                "weights", "an empty sequence", "one projection per candidate is needed"
            )
        for number, weight in enumerate(self.weights):
            require_matrix(f"weights[{number}]", weight, self.weights[0].shape[0], None, self.weights[0])

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def device(self) -> torch.device:
        return self.weights[0].device

    @property
    def outputs(self) -> int:
        """Rows of every projection."""
        return self.weights[0].shape[0]

    @property
    def aligned(self) -> bool:
        """Whether every row starts at a multiple of 16 bytes, so that loads can be whole vectors."""
        step = 16 // self.weights[0].element_size()
        return all(w.data_ptr() % 16 == 0 and w.stride(0) % step == 0 for w in self.weights)

    @cached_property
    def rows(self) -> Tensor:
        """Address, row stride (elements) and width of each, int64 [M, 3], on the device: one copy, once.

        Raises:
            CopyInGraph: a CUDA graph is being captured, and the table has not been used before.
        """
        facts = [(weight.data_ptr(), weight.stride(0), weight.shape[1]) for weight in self.weights]
        return to_device(facts, torch.int64, self.device)


Projection = Tensor | ProjectionTable


def masked_projection(
    inner: Tensor,
    weight: Projection,
    keep: Keep = None,
    *,
    span: int = 1,
    bias_H: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """``inner[:, :w] @ weight[:, :w].T + bias`` with ``w = keep * span``, for one candidate or several.

    2NHw FLOPs per candidate (`work.projection_work`). Columns of `inner` beyond w are never read.

    Args:
        inner: [N, C], shared by all candidates, or [M, N, C].
        weight: [H, C] for all candidates, or a table of one [H, C_m] each.
        keep: units kept: an int, a sequence of M, or an int32 tensor [M] on the device (read there: no
            synchronisation, and one CUDA graph serves every width). None keeps all.
        span: inner channels per unit.
        bias_H: added to every row; also what a candidate that keeps nothing gives.
        backend: ``auto``, ``triton`` or ``torch``.

    Returns:
        [M, N, H] in the dtype of `inner`; [N, H] for one candidate given as an int or None.

    Raises:
        KernelArgumentError: shapes, dtypes, devices or widths that do not fit.
        KernelBackendUnavailable: Triton was asked for and cannot run.
    """
    kept, weight = check_projection("inner", inner, weight, keep, span)
    require_vector("bias_H", bias_H, _outputs(weight), inner)
    weights = weight.weights if isinstance(weight, ProjectionTable) else (weight,)
    backend = with_gradients(backend, inner, bias_H, *weights)
    run = implementation("projection", backend, inner, form_of(kept, _outputs(weight)))
    result: Tensor = run.project(inner, weight, kept, span, bias_H)
    return result


def nested_projection(
    inner_NC: Tensor, weight_HC: Tensor, kept: Sequence[int], *, span: int = 1, backend: Backend = "auto"
) -> Tensor:
    """``stack([inner[:, :k*span] @ weight[:, :k*span].T for k in kept])``, [M, N, H], at the widest's price.

    A projection sums over channels, so one pass over the widest passes through every narrower result:
    the running sum is written at each boundary. Work: `work.nested_projection_work`.

    Args:
        inner_NC: [N, C].
        weight_HC: one weight for all widths.
        kept: units kept, ascending (equal ones allowed).
        span: inner channels per unit.
        backend: ``auto``, ``triton`` or ``torch``.

    Raises:
        KernelArgumentError: shapes, dtypes or widths that do not fit, or widths that descend.
        KernelBackendUnavailable: Triton was asked for and cannot run.
    """
    if inner_NC.dim() != 2:
        raise KernelArgumentError("inner_NC", f"shape {list(inner_NC.shape)}", "it must be [N, C]")
    bounds, _ = check_projection("inner_NC", inner_NC, weight_HC, kept, span, names=("weight_HC", "kept"))
    require_ascending("kept", bounds)
    backend = with_gradients(backend, inner_NC, weight_HC)
    run = implementation("projection", backend, inner_NC, form_of(bounds, len(weight_HC)))
    result: Tensor = run.project_nested(inner_NC, weight_HC, bounds, span)
    return result


def check_projection(
    name: str,
    inner: Tensor,
    weight: Projection | Sequence[Tensor],
    keep: Keep,
    span: int,
    *,
    names: tuple[str, str] = ("weight", "keep"),
) -> tuple[Widths, Projection]:
    """The arguments that all projections share, checked; a sequence of weights becomes a table."""
    weight_name, keep_name = names
    require_input(name, inner)
    channels = inner.shape[-1]
    if type(span) is not int or span < 1 or channels % span:
        raise KernelArgumentError("span", span, f"it must divide the {channels} channels of {name}")
    if not isinstance(weight, Tensor | ProjectionTable):
        weight = ProjectionTable(tuple(weight))
    if isinstance(weight, Tensor):
        require_matrix(weight_name, weight, None, channels, inner)
        kept = widths(keep, channels // span, "units", inner.device, keep_name)
        require_input(name, inner, candidates=len(kept))
        return kept, weight
    require_alike(weight_name, weight.weights[0], inner)
    kept = widths(keep, channels // span, "units", inner.device, keep_name)
    require_input(name, inner, candidates=len(kept))
    require_table_holds(weight_name, weight, kept, span)
    return kept, weight


def require_table_holds(name: str, table: ProjectionTable, kept: Widths, span: int) -> None:
    """Check that a table has a projection for every candidate, as wide as it needs where that is known.

    Raises:
        KernelArgumentError: it has not.
    """
    if len(table) != len(kept):
        raise KernelArgumentError(name, f"a table of {len(table)}", f"keep has {len(kept)} candidates")
    if kept.counts is not None:
        for number, (count, row) in enumerate(zip(kept.counts, table.weights, strict=True)):
            if count * span > row.shape[1]:
                allowed = f"{name}[{number}] has {row.shape[1]} columns, {span} per unit"
                raise KernelArgumentError("keep", count, allowed)


def _outputs(weight: Projection) -> int:
    return weight.outputs if isinstance(weight, ProjectionTable) else weight.shape[0]
