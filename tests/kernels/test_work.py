"""What a call must cost at least: parts add up to wholes, and a launch tells a profiler the same numbers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from secateur_kernels.backend import triton_installed
from secateur_kernels.work import (
    Work,
    attend_work,
    attention_work,
    linear_loss_work,
    mlp_work,
    nested_projection_work,
    projection_work,
    rows_work,
)

N, H, C = 50, 64, 96
KEPT = [0, 40, 96]


def test_parts_add_up() -> None:
    for shared, inner in ((False, KEPT), (True, [96])):
        whole = mlp_work(N, H, KEPT, 2, shared_input=shared)
        parts = rows_work(N, H, inner, 2, matrices=2) + projection_work(N, H, KEPT, 2)
        assert whole.flops == parts.flops
        # What the parts write and read in between is no compulsory traffic of the whole.
        assert parts.bytes - whole.bytes == 2 * N * (sum(inner) + sum(KEPT))
    lengths, D, R, groups = [10, 40], 32, 3, [1, 2]
    whole = attention_work(lengths, H, D, R, groups, 2)
    parts = attend_work(lengths, D, R, groups, 2) + projection_work(N, H, [R * D * k for k in groups], 2)
    for width in (R * D, D, D):
        parts += rows_work(N, H, [width * k for k in groups], 2)
    assert whole.flops == parts.flops and whole.bytes < parts.bytes


@pytest.mark.parametrize("window", [None, 1, 7, 40, 99])
def test_queries_see_what_a_mask_lets_them(window: int | None) -> None:
    age = torch.arange(40)[:, None] - torch.arange(40)
    seen = int(((age >= 0) & (age < (window or 40))).sum())
    assert attend_work([40], 32, 3, [2], 2, window=window).flops == 4 * seen * 32 * 3 * 2


def test_what_is_shared_is_read_once() -> None:
    apart = projection_work(N, H, KEPT, 2)
    assert apart.bytes - projection_work(N, H, KEPT, 2, shared_input=True).bytes == 2 * N * 40
    assert apart.bytes - projection_work(N, H, KEPT, 2, shared_weight=True).bytes == 2 * H * 40


def test_nothing_costs_nothing() -> None:
    assert rows_work(N, H, [], 2) == projection_work(N, H, [], 2) == Work(0, 0)
    assert mlp_work(N, H, [0], 2).flops == attention_work([], H, 32, 3, [2], 2).flops == 0


def keep(*counts: int) -> torch.Tensor:
    return torch.tensor(counts, dtype=torch.int32)


def launches() -> dict[str, tuple[str, str, dict[str, Any], Work]]:
    """By name: room, kernel, arguments of its launch, work."""
    half, sizes = torch.zeros(1, 1, dtype=torch.bfloat16), {"N": N, "H": H}
    table = torch.tensor([[0, 0, 30], [0, 0, 96]])
    heads = {"PER_GROUP": 3, **sizes}
    projection = {"inner": half, "C": C, "SPAN": 8, "keep": keep(-3, 5, 99), **sizes}
    return {
        "gated_inner": (
            "mlp",
            "_gated_inner",
            {"gate": half, "K": C, "keep": keep(*KEPT), **sizes},
            rows_work(N, H, KEPT, 2, matrices=2),
        ),
        "projection": (
            "projection",
            "_project",
            {**projection, "weight": half, "TABLE": False},
            projection_work(N, H, KEPT, 2, shared_input=True, shared_weight=True),
        ),
        "projection of a table": (
            "projection",
            "_project",
            {**projection, "inner": half[None], "weight": table, "TABLE": True, "keep": keep(5, 99)},
            projection_work(N, H, [30, 96], 2),
        ),
        "nested_projection": (
            "projection",
            "_project_nested",
            projection,
            nested_projection_work(N, H, KEPT, 2),
        ),
        "heads": (
            "attention",
            "_project_heads",
            {"x": half, "A": 6, "HALF": 16, "keep": keep(1, 9), **heads},
            rows_work(N, H, [96, 192], 2),
        ),
        "attend": (
            "attention",
            "_attend",
            {
                "query": half,
                "D": 32,
                "groups": 2,
                "keep": keep(1, 9),
                "starts": keep(0, 10, 10, 50),
                "WINDOWED": True,
                "window": 7,
                **heads,
            },
            attend_work([10, 0, 40], 32, 3, [1, 2], 2, window=7),
        ),
        "linear_loss": (
            "linear_loss",
            "_partial_losses",
            {"head": half, "teacher": half, "V": 500, "K": 0, **sizes},
            linear_loss_work(N, H, 500, 2, teacher_hidden=True),
        ),
    }


@pytest.mark.skipif(not triton_installed(), reason="triton is not installed")
@pytest.mark.parametrize("name", launches())
def test_a_launch_tells_a_profiler_its_work(name: str) -> None:
    room, kernel, arguments, work = launches()[name]
    function = getattr(import_module(f"secateur_kernels.triton_backend.{room}"), kernel)
    tell = function.kwargs["launch_metadata"] if hasattr(function, "kwargs") else function.launch_metadata
    said = tell((1,), None, arguments)
    assert said == {"name": name.split()[0], "flops16": work.flops, "bytes": work.bytes}
