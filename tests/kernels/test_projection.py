"""Bounded projections are the sliced products, for any widths, one candidate or several, shared input or not.

Proven on both backends and in every dtype against fp64: shapes off every block boundary, widths on the
device, tables of separate weights, spans, biases, widths of nothing; nested widths are the separate ones.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur_kernels import (
    KernelArgumentError,
    KernelBackendUnavailable,
    ProjectionTable,
    masked_projection,
    nested_projection,
    reference,
)
from tests.kernels.conftest import assert_as_good_as_eager

TOKENS, CHANNELS, OUTPUTS = 150, 200, 133
KEEP = [0, 1, 64, 131, 200]


def draw(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


@pytest.fixture
def inner(dtype: torch.dtype, device: torch.device) -> Tensor:
    return draw(TOKENS, CHANNELS, dtype=dtype, device=device)


@pytest.fixture
def weight(dtype: torch.dtype, device: torch.device) -> Tensor:
    return draw(OUTPUTS, CHANNELS, dtype=dtype, device=device, seed=1) / math.sqrt(CHANNELS)


@pytest.fixture
def plain(device: torch.device) -> tuple[Tensor, Tensor]:
    """Inner values and a weight in fp32."""
    return (
        draw(TOKENS, CHANNELS, dtype=torch.float32, device=device),
        draw(OUTPUTS, CHANNELS, dtype=torch.float32, device=device, seed=1) / math.sqrt(CHANNELS),
    )


def on_device(keep: list[int] | int, device: torch.device) -> Tensor:
    return torch.tensor(keep, dtype=torch.int32, device=device)


def eager(inner: Tensor, weight: Tensor, width: int) -> Tensor:
    return inner[:, :width] @ weight[:, :width].T


def test_equals_the_sliced_product(backend: str, inner: Tensor, weight: Tensor) -> None:
    found = masked_projection(inner, weight, KEEP, backend=backend)
    assert found.shape == (len(KEEP), TOKENS, OUTPUTS)
    for width, part in zip(KEEP, found, strict=True):
        true = reference.masked_projection(inner, weight, width, None)
        assert_as_good_as_eager(part, eager(inner, weight, width), true)


def test_every_candidate_may_have_an_input_and_a_weight_of_its_own(
    backend: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Rows of one table start at multiples of 16 bytes, of the other they do not."""
    inner = draw(3, 50, CHANNELS, dtype=dtype, device=device)
    for sizes in ([64, 128, 200], [63, 1, 131]):
        parts = [draw(OUTPUTS, size, dtype=dtype, device=device, seed=size) / 8 for size in sizes]
        widths = [sizes[0], 1, 0]
        table = ProjectionTable(tuple(parts))
        found = masked_projection(inner, table, widths, backend=backend)
        for part, x, weight, width in zip(found, inner, parts, widths, strict=True):
            true = reference.masked_projection(x, weight, width)
            assert_as_good_as_eager(part, eager(x, weight, width), true)
        assert torch.equal(masked_projection(inner, parts, widths, backend=backend), found)


def test_spans_count_units_and_biases_are_added(
    backend: str, inner: Tensor, weight: Tensor, dtype: torch.dtype, device: torch.device
) -> None:
    bias_H = draw(OUTPUTS, dtype=dtype, device=device, seed=2)
    found = masked_projection(inner, weight, [0, 3], span=25, bias_H=bias_H, backend=backend)
    assert torch.equal(found[0], bias_H.expand(TOKENS, OUTPUTS))
    true = reference.masked_projection(inner, weight, 75, bias_H)
    assert_as_good_as_eager(found[1], eager(inner, weight, 75) + bias_H, true)


@pytest.mark.parametrize("span", [1, 5, 8])
def test_nested_widths_equal_the_separate_ones(
    backend: str, inner: Tensor, weight: Tensor, span: int
) -> None:
    """With a span of 8 all boundaries are aligned, which compiles differently."""
    units = [0, 0, 9, 20, 25]
    found = nested_projection(inner, weight, units, span=span, backend=backend)
    assert found.shape == (len(units), TOKENS, OUTPUTS)
    for count, part in zip(units, found, strict=True):
        true = reference.masked_projection(inner, weight, count * span)
        assert_as_good_as_eager(part, eager(inner, weight, count * span), true)


def test_nested_tail_follows_the_last_boundary(backend: str, device: torch.device) -> None:
    """Whole numbers are exact in fp32 in any order: nested and separate results are the same bits."""
    inner = draw(40, CHANNELS, dtype=torch.float32, device=device).mul_(4).round_()
    weight = draw(OUTPUTS, CHANNELS, dtype=torch.float32, device=device, seed=1).mul_(4).round_()
    widths = [1, 33, 64, 65, 199, 200]
    found = nested_projection(inner, weight, widths, backend=backend)
    assert torch.equal(found, masked_projection(inner, weight, widths, backend=backend))


def test_widths_mean_the_same_however_they_are_given(
    backend: str, plain: tuple[Tensor, Tensor], device: torch.device
) -> None:
    wanted = masked_projection(*plain, [131, 9], backend=backend)
    assert torch.equal(masked_projection(*plain, on_device([131, 9], device), backend=backend), wanted)
    for way in (131, on_device(131, device)):
        alone = masked_projection(*plain, way, backend=backend)
        assert alone.shape == (TOKENS, OUTPUTS) and torch.equal(alone, wanted[0])
    clamped = masked_projection(*plain, on_device([-7, 10_000], device), backend=backend)
    assert torch.equal(clamped, masked_projection(*plain, [0, CHANNELS], backend=backend))
    table = [plain[1][:, :70].contiguous()]  # on the device a width is clamped to its table's row too
    clamped = masked_projection(plain[0], table, on_device([10_000], device), backend=backend)
    assert torch.equal(clamped, masked_projection(plain[0], table, [70], backend=backend))


def test_keeping_k_channels_equals_weights_cut_to_k(backend: str, plain: tuple[Tensor, Tensor]) -> None:
    found = masked_projection(*plain, 131, backend=backend)
    cut = masked_projection(*(t[:, :131].contiguous() for t in plain), backend=backend)
    if backend == "triton":
        assert torch.equal(found, cut)
    torch.testing.assert_close(found, cut, rtol=1e-5, atol=1e-5)


def test_keeping_all_is_keeping_everything_bit_for_bit(backend: str, plain: tuple[Tensor, Tensor]) -> None:
    everything = masked_projection(*plain, backend=backend)
    assert torch.equal(masked_projection(*plain, CHANNELS, backend=backend), everything)


def test_pruned_channels_change_nothing_whatever_they_hold(
    backend: str, plain: tuple[Tensor, Tensor]
) -> None:
    poisoned = [tensor.clone() for tensor in plain]
    for tensor in poisoned:
        tensor[:, 131:] = math.nan
    wanted = masked_projection(*plain, [131, 20], backend=backend)
    assert torch.equal(masked_projection(*poisoned, [131, 20], backend=backend), wanted)
    wanted = nested_projection(*plain, [20, 131], backend=backend)
    assert torch.equal(nested_projection(*poisoned, [20, 131], backend=backend), wanted)


def test_tokens_do_not_depend_on_what_they_are_computed_with(
    backend: str, plain: tuple[Tensor, Tensor]
) -> None:
    inner, weight = plain
    whole = masked_projection(inner, weight, 131, backend=backend)
    parts = [masked_projection(part, weight, 131, backend=backend) for part in (inner[:64], inner[64:])]
    if backend == "triton":  # cut where the interpreter's BLAS cannot tell (its rows differ by position)
        assert torch.equal(torch.cat(parts), whole)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


def test_no_tokens_give_an_empty_result(backend: str, plain: tuple[Tensor, Tensor]) -> None:
    none, weight = plain[0][:0], plain[1]
    assert masked_projection(none, weight, KEEP, backend=backend).shape == (len(KEEP), 0, OUTPUTS)
    assert masked_projection(none, weight, backend=backend).shape == (0, OUTPUTS)
    assert nested_projection(none, weight, [1, 2], backend=backend).shape == (2, 0, OUTPUTS)


def test_rows_may_be_strided(backend: str, plain: tuple[Tensor, Tensor]) -> None:
    inner, weight = plain
    wide = torch.full((OUTPUTS, CHANNELS + 9), math.nan, device=weight.device)
    wide[:, 3 : 3 + CHANNELS] = weight
    found = masked_projection(inner[::2], wide[:, 3 : 3 + CHANNELS], 67, backend=backend)
    wanted = masked_projection(inner[::2].contiguous(), weight, 67, backend=backend)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_pass_through_torch_and_are_refused_by_triton(device: torch.device) -> None:
    inner, weight = (draw(9, 20, dtype=torch.float32, device=device, seed=s) for s in (1, 2))
    inner.requires_grad_()
    (found,) = torch.autograd.grad(masked_projection(inner, weight, [7, 20]).sum(), inner)
    (wanted,) = torch.autograd.grad(((inner[:, :7] @ weight[:, :7].T) + 0).sum(), inner)
    torch.testing.assert_close(found, wanted + weight.sum(0))
    with pytest.raises(KernelBackendUnavailable, match="gradients"):
        masked_projection(inner, weight, backend="triton")


BAD: dict[str, tuple[str, Any]] = {
    "rows not contiguous": ("inner", lambda x, w: masked_projection(x[:, ::2], w)),
    "dtype of the input": ("inner", lambda x, w: masked_projection(x.long(), w)),
    "candidates of the input": ("inner", lambda x, w: masked_projection(x[None], w, [1, 2])),
    "dtype of the weight": ("weight", lambda x, w: masked_projection(x, w.half())),
    "columns of the weight": ("weight", lambda x, w: masked_projection(x, w[:, 1:])),
    "weight not contiguous": ("weight", lambda x, w: masked_projection(x, w.T.contiguous().T)),
    "an empty table": ("weights", lambda x, w: masked_projection(x, [])),
    "rows of a table": ("weights", lambda x, w: masked_projection(x, [w, w[1:]], [1, 2])),
    "dtype of a table": ("weight", lambda x, w: masked_projection(x, [w.half()])),
    "size of a table": ("weight", lambda x, w: masked_projection(x, [w], [1, 2])),
    "narrow table": ("keep", lambda x, w: masked_projection(x, [w, w[:, :5]], [6, 6])),
    "span": ("span", lambda x, w: masked_projection(x, w, 1, span=3)),
    "bias": ("bias_H", lambda x, w: masked_projection(x, w, bias_H=x[0])),
    "mask longer than the weight": ("keep", lambda x, w: masked_projection(x, w, CHANNELS + 1)),
    "more units than there are": ("keep", lambda x, w: masked_projection(x, w, [1, 41], span=5)),
    "less than none": ("keep", lambda x, w: masked_projection(x, w, -1)),
    "true": ("keep", lambda x, w: masked_projection(x, w, True)),
    "no candidates": ("keep", lambda x, w: masked_projection(x, w, [])),
    "no candidates on the device": ("keep", lambda x, w: masked_projection(x, w, on_device([], x.device))),
    "dtype of keep": ("keep", lambda x, w: masked_projection(x, w, on_device([1], x.device).long())),
    "device of keep": ("keep", lambda x, w: masked_projection(x, w, on_device([1], torch.device("meta")))),
    "descending widths": ("kept", lambda x, w: nested_projection(x, w, [5, 4])),
    "too wide a nest": ("kept", lambda x, w: nested_projection(x, w, [5, CHANNELS + 1])),
    "nested inputs": ("inner_NC", lambda x, w: nested_projection(x[None], w, [5])),
    "nested weight": ("weight_HC", lambda x, w: nested_projection(x, w[:, 1:], [5])),
    "backend": ("backend", lambda x, w: masked_projection(x, w, backend="cuda")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name: str) -> None:
    argument, call = BAD[name]
    shapes = {"dtype": torch.float32, "device": torch.device("cpu")}
    with pytest.raises(KernelArgumentError, match=f"^{argument}(\\[[01]\\])?: ") as caught:
        call(draw(20, CHANNELS, **shapes), draw(OUTPUTS, CHANNELS, **shapes))
    assert caught.value.name.split("[")[0] == argument


def test_triton_without_a_gpu_or_its_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    tensor = torch.zeros(4, 4)
    with pytest.raises(KernelBackendUnavailable, match="triton"):
        masked_projection(tensor, tensor, backend="triton")
    assert masked_projection(tensor, tensor).shape == (4, 4)
