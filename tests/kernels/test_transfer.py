"""The host waits for no device: nothing is read back, and numbers that go there go once.

Tensors on `meta` have no numbers: whatever would read one (`.item()`, `.tolist()`, `nonzero`, a branch on a
value) fails, so what runs there whole asks nothing of a device.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secateur_kernels import (
    Heads,
    Packing,
    ProjectionTable,
    gated_inner,
    linear_kl,
    linear_loss,
    linear_nll,
    masked_attention,
    masked_mlp,
    masked_projection,
    nested_mlp,
    nested_projection,
    prepare_teacher,
    teacher_states,
    teacher_top_k,
)
from secateur_kernels.arguments import widths
from secateur_kernels.transfer import kept_on_device

META = torch.device("meta")
CPU = torch.device("cpu")


def blank(*shape: int) -> Tensor:
    return torch.empty(*shape, device=META)


def mlp() -> Tensor:
    table = ProjectionTable((blank(16, 8), blank(16, 24)))
    masked_mlp(blank(2, 5, 16), blank(24, 16), blank(24, 16), table, [8, 24])
    nested_mlp(blank(5, 16), blank(24, 16), blank(24, 16), blank(16, 24), [0, 8, 24])
    return gated_inner(blank(5, 16), blank(24, 16), blank(24, 16), 8)


def projection() -> Tensor:
    nested_projection(blank(5, 24), blank(16, 24), [8, 24])
    return masked_projection(blank(5, 24), blank(16, 24), [8, 24])


def attention() -> Tensor:
    packing = Packing.of([3, 0, 4], blank(4, 32), blank(4, 32))
    heads = Heads(blank(128, 16), blank(64, 16), blank(64, 16), 32)
    return masked_attention(blank(7, 16), heads, blank(16, 128), packing, [1, 2])


def losses() -> Tensor:
    hidden, head = blank(5, 16), blank(50, 16)
    target = torch.empty(5, dtype=torch.int64, device=META)
    found = linear_loss(hidden, head, target, entropy=True, teacher=teacher_top_k(hidden, head, 3))
    assert found.entropy_N is not None
    linear_kl(hidden, teacher_states(hidden, head, target), head, target)
    linear_kl(hidden, prepare_teacher(hidden, head, target), head, target)
    return linear_nll(hidden, head, target)


@pytest.mark.parametrize("call", [mlp, projection, attention, losses])
def test_nothing_is_read_back(call: Callable[[], Tensor]) -> None:
    assert call().device == META


def test_a_width_is_copied_once() -> None:
    first, again = (widths([3, 8], 8, "units", CPU).device(CPU) for _ in range(2))
    assert first is again and first.dtype == torch.int32 and first.tolist() == [3, 8]
    assert widths([8, 3], 8, "units", CPU).device(CPU).tolist() == [8, 3]


def test_what_is_kept_may_be_used_where_gradients_are() -> None:
    with torch.inference_mode():
        kept = kept_on_device((1, 2, 3, 4, 5), CPU)
    assert not kept.is_inference()
