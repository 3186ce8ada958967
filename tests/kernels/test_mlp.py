"""A gated MLP bounded by what each candidate keeps is the MLP with the other channels cut out.

Proven on both backends and in every dtype against fp64: shapes off every block boundary, widths on the
host and on the device, shared and own inputs, tables, index lists, biases. What is cut is never read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from secateur_kernels import (
    KernelArgumentError,
    KernelBackendUnavailable,
    ProjectionTable,
    gated_inner,
    masked_mlp,
    nested_mlp,
    reference,
)
from secateur_kernels.arguments import Widths
from tests.kernels.conftest import assert_as_good_as_eager

TOKENS, HIDDEN, CHANNELS = 135, 72, 150  # rows of 72 may be described to a GPU that copies by itself
KEEP = [0, 67, 150]


@dataclass(frozen=True)
class Mlp:
    """Weights of one, in the order in which the public functions take them."""

    gate_CH: Tensor
    up_CH: Tensor
    down_HC: Tensor
    gate_bias_C: Tensor
    up_bias_C: Tensor
    down_bias_H: Tensor

    @property
    def biases(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("gate_bias_C", "up_bias_C", "down_bias_H")}

    @property
    def inner(self) -> tuple[Tensor, Tensor]:
        return self.gate_CH, self.up_CH

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.gate_CH, self.up_CH, self.down_HC

    def cut(self, kept: slice | Tensor) -> Mlp:
        """With those channels only, in memory of their own."""
        return Mlp(
            self.gate_CH[kept].clone(),
            self.up_CH[kept].clone(),
            self.down_HC[:, kept].contiguous().clone(),
            self.gate_bias_C[kept].clone(),
            self.up_bias_C[kept].clone(),
            self.down_bias_H,
        )

    def poisoned(self, pruned: slice | Tensor) -> Mlp:
        """With everything that belongs to those channels NaN."""
        changed = Mlp(*(tensor.clone() for tensor in vars(self).values()))
        for tensor in (changed.gate_CH, changed.up_CH, changed.gate_bias_C, changed.up_bias_C):
            tensor[pruned] = math.nan
        changed.down_HC[:, pruned] = math.nan
        return changed

    def true(self, x_NH: Tensor, kept: slice | Tensor, *, biases: bool = False) -> Tensor:
        return reference.masked_mlp(x_NH, *self.weights, kept, **(self.biases if biases else {}))

    def eager(self, x_NH: Tensor, kept: slice | Tensor, *, biases: bool = False) -> Tensor:
        cut = self.cut(kept)
        if not biases:
            cut = replace(cut, **{name: torch.zeros_like(bias) for name, bias in cut.biases.items()})
        gate_NC = functional.linear(x_NH, cut.gate_CH, cut.gate_bias_C)
        up_NC = functional.linear(x_NH, cut.up_CH, cut.up_bias_C)
        return functional.linear(functional.silu(gate_NC) * up_NC, cut.down_HC, cut.down_bias_H)


def draw(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


def draw_mlp(dtype: torch.dtype, device: torch.device) -> Mlp:
    where: dict[str, Any] = {"dtype": dtype, "device": device}
    return Mlp(
        draw(CHANNELS, HIDDEN, seed=1, **where) / math.sqrt(HIDDEN),
        draw(CHANNELS, HIDDEN, seed=2, **where) / math.sqrt(HIDDEN),
        draw(HIDDEN, CHANNELS, seed=3, **where) / math.sqrt(CHANNELS),
        draw(CHANNELS, seed=4, **where),
        draw(CHANNELS, seed=5, **where),
        draw(HIDDEN, seed=6, **where),
    )


def shuffled(device: torch.device, count: int = CHANNELS) -> Tensor:
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(7))
    return order[:count].int().to(device)


def on_device(keep: list[int] | int, device: torch.device) -> Tensor:
    return torch.tensor(keep, dtype=torch.int32, device=device)


@pytest.fixture
def mlp(dtype: torch.dtype, device: torch.device) -> Mlp:
    return draw_mlp(dtype, device)


@pytest.fixture
def x(dtype: torch.dtype, device: torch.device) -> Tensor:
    return draw(TOKENS, HIDDEN, dtype=dtype, device=device)


@pytest.fixture
def single(device: torch.device) -> Mlp:
    return draw_mlp(torch.float32, device)


@pytest.fixture
def x32(device: torch.device) -> Tensor:
    return draw(TOKENS, HIDDEN, dtype=torch.float32, device=device)


def test_equals_the_mlp_cut_to_what_is_kept(backend: str, mlp: Mlp, x: Tensor) -> None:
    found = masked_mlp(x, *mlp.weights, KEEP, **mlp.biases, backend=backend)
    assert found.shape == (len(KEEP), TOKENS, HIDDEN)
    for width, part in zip(KEEP, found, strict=True):
        kept = slice(width)
        assert_as_good_as_eager(part, mlp.eager(x, kept, biases=True), mlp.true(x, kept, biases=True))


def test_every_candidate_may_have_an_input_and_a_down_projection_of_its_own(
    backend: str, mlp: Mlp, x: Tensor, device: torch.device
) -> None:
    widths, inputs = [149, 3], torch.stack([x[:50], x[50:100]])
    parts = [mlp.cut(slice(width)).down_HC * (1 + number) for number, width in enumerate(widths)]
    found = masked_mlp(inputs, *mlp.inner, ProjectionTable(tuple(parts)), widths, backend=backend)
    for x_NH, part, width, down in zip(inputs, found, widths, parts, strict=True):
        own = replace(mlp.cut(slice(width)), down_HC=down)
        assert_as_good_as_eager(part, own.eager(x_NH, slice(None)), own.true(x_NH, slice(None)))


def test_an_index_lists_the_channels_in_the_order_in_which_they_are_kept(
    backend: str, mlp: Mlp, x: Tensor, device: torch.device
) -> None:
    index_C = shuffled(device, 140)
    widths = [67, 140]
    found = masked_mlp(x, *mlp.weights, widths, index_C=index_C, **mlp.biases, backend=backend)
    for width, part in zip(widths, found, strict=True):
        kept = index_C[:width].long()
        assert_as_good_as_eager(part, mlp.eager(x, kept, biases=True), mlp.true(x, kept, biases=True))


def test_inner_channels_are_packed_in_the_order_of_the_index(
    backend: str, mlp: Mlp, x: Tensor, device: torch.device
) -> None:
    index_C = shuffled(device, 140)
    found = gated_inner(x, *mlp.inner, 99, index_C=index_C, gate_bias_C=mlp.gate_bias_C, backend=backend)
    assert found.shape == (TOKENS, 140)
    rows = index_C[:99].long()
    true = reference.gated_inner(x, *mlp.inner, mlp.gate_bias_C)[:, rows]
    gate = functional.linear(x, mlp.gate_CH, mlp.gate_bias_C)
    eager = (functional.silu(gate) * functional.linear(x, mlp.up_CH))[:, rows]
    assert_as_good_as_eager(found[:, :99], eager, true)


def test_nested_widths_equal_the_separate_ones(backend: str, mlp: Mlp, x: Tensor) -> None:
    widths = [0, 40, 40, 137]
    found = nested_mlp(x, *mlp.weights, widths, backend=backend)
    assert found.shape == (len(widths), TOKENS, HIDDEN)
    for width, part in zip(widths, found, strict=True):
        kept = slice(width)
        assert_as_good_as_eager(part, mlp.eager(x, kept), mlp.true(x, kept))


@pytest.mark.parametrize("shared", [True, False], ids=["shared input", "own inputs"])
def test_widths_mean_the_same_however_they_are_given(
    backend: str, single: Mlp, x32: Tensor, device: torch.device, shared: bool
) -> None:
    x = x32[:40] if shared else x32[:80].reshape(2, 40, HIDDEN)
    wanted = masked_mlp(x, *single.weights, [67, 9], backend=backend)
    found = masked_mlp(x, *single.weights, on_device([67, 9], device), backend=backend)
    assert torch.equal(found, wanted)
    if shared:
        for number, keep in enumerate([67, 9]):
            for way in (keep, on_device(keep, device)):
                alone = masked_mlp(x, *single.weights, way, backend=backend)
                assert alone.shape == (40, HIDDEN)
                torch.testing.assert_close(alone, wanted[number], rtol=1e-5, atol=1e-6)


def test_widths_on_the_device_are_clamped(
    backend: str, single: Mlp, x32: Tensor, device: torch.device
) -> None:
    found = masked_mlp(x32[:9], *single.weights, on_device([-5, 10_000], device), backend=backend)
    assert torch.equal(found, masked_mlp(x32[:9], *single.weights, [0, CHANNELS], backend=backend))


def test_keeping_k_channels_equals_weights_cut_to_k(backend: str, single: Mlp, x32: Tensor) -> None:
    found = masked_mlp(x32, *single.weights, 67, backend=backend)
    cut = masked_mlp(x32, *single.cut(slice(67)).weights, backend=backend)
    if backend == "triton":
        assert torch.equal(found, cut)
    torch.testing.assert_close(found, cut, rtol=1e-5, atol=1e-6)


def test_keeping_all_is_keeping_everything_bit_for_bit(backend: str, mlp: Mlp, x: Tensor) -> None:
    everything = masked_mlp(x, *mlp.weights, backend=backend)
    assert torch.equal(masked_mlp(x, *mlp.weights, CHANNELS, backend=backend), everything)


def test_an_index_of_everything_in_order_is_a_prefix_bit_for_bit(
    backend: str, mlp: Mlp, x: Tensor, device: torch.device
) -> None:
    index_C = torch.arange(CHANNELS, dtype=torch.int32, device=device)
    found = masked_mlp(x, *mlp.weights, [67, 150], index_C=index_C, **mlp.biases, backend=backend)
    assert torch.equal(found, masked_mlp(x, *mlp.weights, [67, 150], **mlp.biases, backend=backend))


def test_pruned_channels_change_nothing_whatever_they_hold(
    backend: str, mlp: Mlp, x: Tensor, device: torch.device
) -> None:
    found = masked_mlp(x, *mlp.poisoned(slice(67, None)).weights, [67, 20], backend=backend)
    assert torch.equal(found, masked_mlp(x, *mlp.weights, [67, 20], backend=backend))
    index_C = shuffled(device)
    poisoned = mlp.poisoned(index_C[67:].long())
    found = masked_mlp(x, *poisoned.weights, 67, index_C=index_C, **poisoned.biases, backend=backend)
    wanted = masked_mlp(x, *mlp.weights, 67, index_C=index_C, **mlp.biases, backend=backend)
    assert torch.equal(found, wanted)


def test_tokens_do_not_depend_on_what_they_are_computed_with(backend: str, single: Mlp, x32: Tensor) -> None:
    whole = masked_mlp(x32, *single.weights, 67, backend=backend)
    parts = [masked_mlp(part, *single.weights, 67, backend=backend) for part in (x32[:64], x32[64:])]
    if backend == "triton":  # cut where the interpreter's BLAS cannot tell (its rows differ by position)
        assert torch.equal(torch.cat(parts), whole)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_both_tilings_agree_to_the_bit(backend: str, single: Mlp, x32: Tensor) -> None:
    """In more tiles of tokens than go together, by few programs and by many, each candidate to its width."""
    if backend == "torch":
        pytest.skip("tiles are the kernel's")
    from secateur_kernels.triton_backend.mlp import gated_inner as of_tile
    from secateur_kernels.triton_backend.tile import Tile

    x, kept = torch.cat([x32, x32]).repeat(2, 1, 1), Widths((150, 40), None, False)
    biases = single.gate_bias_C, single.up_bias_C
    plain, few, many = (
        of_tile(x, *single.inner, kept, None, *biases, tile=Tile(16, 32, 32, 4, 2, blocks=blocks))
        for blocks in (0, 1, 8)
    )
    for found in (few, many):
        for number, width in enumerate((150, 40)):
            assert torch.equal(found[number, :, :width], plain[number, :, :width])
    apart = x32[:, :70].contiguous()  # rows that start anywhere
    one, other = (
        of_tile(
            apart,
            *(weight[:, :70].contiguous() for weight in single.inner),
            Widths((150,), None, True),
            None,
            *biases,
            tile=Tile(64, 64, 32, 4, 2, blocks=blocks),
        )
        for blocks in (0, 1)
    )
    assert torch.equal(one, other)


def test_no_tokens_give_an_empty_result(backend: str, single: Mlp, x32: Tensor) -> None:
    none = x32[:0]
    assert masked_mlp(none, *single.weights, KEEP, backend=backend).shape == (3, 0, HIDDEN)
    assert masked_mlp(none, *single.weights, backend=backend).shape == (0, HIDDEN)
    assert nested_mlp(none, *single.weights, [1, 2], backend=backend).shape == (2, 0, HIDDEN)
    assert gated_inner(none, *single.inner, backend=backend).shape == (0, CHANNELS)


def test_keeping_nothing_gives_zeros_or_the_bias(
    backend: str, mlp: Mlp, x: Tensor, device: torch.device
) -> None:
    for keep in (0, on_device(0, device)):
        assert not masked_mlp(x, *mlp.weights, keep, backend=backend).any()
        found = masked_mlp(x, *mlp.weights, keep, down_bias_H=mlp.down_bias_H, backend=backend)
        assert torch.equal(found, mlp.down_bias_H.expand(TOKENS, HIDDEN))
    nothing = on_device([], device)
    assert not masked_mlp(x, *mlp.weights, index_C=nothing, backend=backend).any()
    assert not nested_mlp(x, *mlp.weights, [0, 0], backend=backend).any()


def test_rows_may_be_strided(backend: str, single: Mlp, x32: Tensor) -> None:
    """Every second token, and weights that are columns of something wider."""
    wide = torch.full((CHANNELS, HIDDEN + 9), math.nan, device=x32.device)
    wide[:, 3 : 3 + HIDDEN] = single.gate_CH
    gate_CH = wide[:, 3 : 3 + HIDDEN]
    found = masked_mlp(x32[::2], gate_CH, single.up_CH, single.down_HC, 67, backend=backend)
    wanted = masked_mlp(x32[::2].contiguous(), *single.weights, 67, backend=backend)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_large_gates_saturate(backend: str, single: Mlp, x32: Tensor) -> None:
    """silu(-1e4) is zero and silu(1e4) the value itself, never NaN."""
    bias = torch.full((CHANNELS,), 1e4, device=x32.device)
    for sign in (1, -1):
        with numpy.errstate(over="ignore"):  # exp(1e4) is infinite, and one over it zero
            found = gated_inner(x32, *single.inner, gate_bias_C=sign * bias, backend=backend)
        true = reference.gated_inner(x32, *single.inner, sign * bias)
        torch.testing.assert_close(found.double(), true, rtol=1e-4, atol=1e-2)


def test_gelu(backend: str, dtype: torch.dtype, mlp: Mlp, x: Tensor) -> None:
    found = masked_mlp(x, *mlp.weights, 67, activation="gelu_tanh", backend=backend)
    cut = mlp.cut(slice(67))
    gate, up = functional.linear(x, cut.gate_CH), functional.linear(x, cut.up_CH)
    eager = functional.linear(functional.gelu(gate, approximate="tanh") * up, cut.down_HC)
    true = reference.masked_mlp(x, *mlp.weights, slice(67), activation="gelu_tanh")
    assert_as_good_as_eager(found, eager, true)


def test_gradients_pass_through_torch(single: Mlp, x32: Tensor) -> None:
    for keep in (67, None):
        x, gate_CH, up_CH = (t[:20].clone().requires_grad_() for t in (x32, single.gate_CH, single.up_CH))
        found = gated_inner(x, gate_CH, up_CH, None if keep is None else 9)
        width = 20 if keep is None else 9
        grads = torch.autograd.grad(found[:, :width].square().sum(), (x, gate_CH, up_CH))
        true = functional.silu(x @ gate_CH[:width].T) * (x @ up_CH[:width].T)
        wanted = torch.autograd.grad(true.square().sum(), (x, gate_CH, up_CH))
        for one, other in zip(grads, wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_gradients_are_refused_by_triton(single: Mlp, x32: Tensor) -> None:
    with pytest.raises(KernelBackendUnavailable, match="gradients"):
        masked_mlp(x32.clone().requires_grad_(), *single.weights, backend="triton")


BAD: dict[str, tuple[str, Any]] = {
    "rows not contiguous": ("x", lambda x, m: masked_mlp(x[:, ::2], *m.weights)),
    "dtype of the input": ("x", lambda x, m: masked_mlp(x.double(), *m.weights)),
    "hidden size": ("gate_CH", lambda x, m: masked_mlp(x[:, :9], *m.weights)),
    "candidates of the input": ("x", lambda x, m: masked_mlp(x[None], *m.weights, [1, 2])),
    "dtype of the gate": ("gate_CH", lambda x, m: masked_mlp(x, m.gate_CH.half(), m.up_CH, m.down_HC)),
    "gate and up differ": ("up_CH", lambda x, m: masked_mlp(x, m.gate_CH, m.up_CH[1:], m.down_HC)),
    "up not contiguous": (
        "up_CH",
        lambda x, m: masked_mlp(x, m.gate_CH, m.up_CH.T.contiguous().T, m.down_HC),
    ),
    "columns of down": ("down", lambda x, m: masked_mlp(x, *m.inner, m.down_HC[:, 1:])),
    "dtype of a table": ("down", lambda x, m: masked_mlp(x, *m.inner, [m.down_HC.half()])),
    "size of a table": ("down", lambda x, m: masked_mlp(x, *m.inner, [m.down_HC], [1, 2])),
    "narrow table": ("keep", lambda x, m: masked_mlp(x, *m.inner, [m.down_HC[:, :5]], [6])),
    "bias": ("gate_bias_C", lambda x, m: masked_mlp(x, *m.weights, gate_bias_C=m.down_bias_H)),
    "down bias": ("down_bias_H", lambda x, m: masked_mlp(x, *m.weights, down_bias_H=m.up_bias_C)),
    "dtype of the index": (
        "index_C",
        lambda x, m: masked_mlp(x, *m.weights, index_C=torch.arange(5, device=x.device)),
    ),
    "long index": (
        "index_C",
        lambda x, m: masked_mlp(x, *m.weights, index_C=on_device([0] * (CHANNELS + 1), x.device)),
    ),
    "more than listed": (
        "keep",
        lambda x, m: masked_mlp(x, *m.weights, 3, index_C=on_device([0, 1], x.device)),
    ),
    "more than there are": ("keep", lambda x, m: masked_mlp(x, *m.weights, CHANNELS + 1)),
    "less than none": ("keep", lambda x, m: gated_inner(x, *m.inner, [-1])),
    "no candidates": ("keep", lambda x, m: masked_mlp(x, *m.weights, [])),
    "no candidates on the device": ("keep", lambda x, m: masked_mlp(x, *m.weights, on_device([], x.device))),
    "dtype of keep": ("keep", lambda x, m: masked_mlp(x, *m.weights, on_device([1], x.device).long())),
    "device of keep": ("keep", lambda x, m: masked_mlp(x, *m.weights, on_device([1], torch.device("meta")))),
    "descending widths": ("kept", lambda x, m: nested_mlp(x, *m.weights, [5, 4])),
    "too wide a nest": ("kept", lambda x, m: nested_mlp(x, *m.weights, [5, CHANNELS + 1])),
    "nested inputs": ("x_NH", lambda x, m: nested_mlp(x[None], *m.weights, [5])),
    "nested down": ("down_HC", lambda x, m: nested_mlp(x, *m.inner, m.down_HC[:, 1:], [5])),
    "activation": ("activation", lambda x, m: gated_inner(x, *m.inner, activation="relu")),
    "backend": ("backend", lambda x, m: masked_mlp(x, *m.weights, backend="cuda")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name: str) -> None:
    cpu = torch.device("cpu")
    argument, call = BAD[name]
    x, mlp = draw(20, HIDDEN, dtype=torch.float32, device=cpu), draw_mlp(torch.float32, cpu)
    with pytest.raises(KernelArgumentError, match=f"^{argument}(\\[0\\])?: ") as caught:
        call(x, mlp)
    assert caught.value.name.split("[")[0] == argument


def test_triton_without_a_gpu_or_its_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    cpu = torch.device("cpu")
    mlp, x = draw_mlp(torch.float32, cpu), draw(20, HIDDEN, dtype=torch.float32, device=cpu)
    with pytest.raises(KernelBackendUnavailable, match="triton"):
        masked_mlp(x, *mlp.weights, backend="triton")
    assert masked_mlp(x, *mlp.weights).shape == x.shape
