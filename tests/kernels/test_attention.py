"""Attention bounded by what each candidate keeps is attention with the other KV groups cut out.

Proven on both backends and in every dtype against fp64: sequences of several lengths in one call, grouped
queries, biases, norms of the heads, sliding windows, tables. What is cut is never read, and sequences do
not know what they are packed with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from secateur_kernels import (
    Heads,
    KernelArgumentError,
    KernelBackendUnavailable,
    Packing,
    attention_inner,
    masked_attention,
    reference,
)
from secateur_kernels import backend as backend_room
from secateur_kernels.torch_backend import attention as torch_attention
from tests.kernels.conftest import assert_as_good_as_eager

HIDDEN, GROUPS, D, LONGEST = 72, 3, 32, 128
LENGTHS = [1, 17, 40]
TOKENS = sum(LENGTHS)


@dataclass(frozen=True)
class Block:
    """Weights and everything else of one attention block."""

    query_QH: Tensor
    key_KH: Tensor
    value_KH: Tensor
    output_HQ: Tensor
    options: dict[str, Any]
    output_bias_H: Tensor

    @property
    def inner(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query_QH, self.key_KH, self.value_KH

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *self.inner, self.output_HQ

    @property
    def span(self) -> int:
        return len(self.query_QH) // len(self.key_KH) * D

    def changed(self, **options: Any) -> Block:
        return replace(self, options={**self.options, **options})

    def cut(self, groups: int) -> Block:
        """With the first groups only, in memory of their own."""
        q, k = groups * self.span, groups * D
        biases = {"query_bias_Q": q, "key_bias_K": k, "value_bias_K": k}
        return Block(
            self.query_QH[:q].clone(),
            self.key_KH[:k].clone(),
            self.value_KH[:k].clone(),
            self.output_HQ[:, :q].clone(),
            {
                name: value[: biases[name]] if name in biases else value
                for name, value in self.options.items()
            },
            self.output_bias_H,
        )

    def poisoned(self, groups: int) -> Block:
        """With everything that belongs to later groups NaN."""
        q, k = groups * self.span, groups * D
        query_QH, key_KH, value_KH, output_HQ = (weight.clone() for weight in self.weights)
        query_QH[q:], key_KH[k:], value_KH[k:], output_HQ[:, q:] = (math.nan,) * 4
        options = dict(self.options)
        for name, rows in {"query_bias_Q": q, "key_bias_K": k, "value_bias_K": k}.items():
            if name in options:
                options[name] = options[name].clone()
                options[name][rows:] = math.nan
        return Block(query_QH, key_KH, value_KH, output_HQ, options, self.output_bias_H)

    def true(self, x_NH: Tensor, groups: int, lengths: list[int]) -> Tensor:
        inner = reference.attention_inner(x_NH, *self.inner, groups, lengths_B=lengths, **self.options)
        return inner @ self.output_HQ[:, : groups * self.span].double().T

    def eager(self, x_NH: Tensor, groups: int, lengths: list[int]) -> Tensor:
        """The same in the dtype of the input, as a model written plainly computes it."""
        cut, parts = self.cut(groups), []
        given = cut.options
        for x_TH in x_NH.split(lengths):
            cos, sin = given["cos_TD"][: len(x_TH)], given["sin_TD"][: len(x_TH)]
            q = _heads(x_TH, cut.query_QH, given.get("query_bias_Q"), given.get("query_norm_D"))
            k = _heads(x_TH, cut.key_KH, given.get("key_bias_K"), given.get("key_norm_D"))
            v = _heads(x_TH, cut.value_KH, given.get("value_bias_K"), None)
            q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
            age = torch.arange(len(x_TH), device=x_TH.device)[:, None] - torch.arange(
                len(x_TH), device=x_TH.device
            )
            forbidden = (age < 0) | (age >= given.get("window", LONGEST))
            k, v = (t.repeat_interleave(cut.span // D, dim=0) for t in (k, v))
            scores = (q @ k.transpose(1, 2) * given.get("scale", D**-0.5)).masked_fill(forbidden, -math.inf)
            parts.append((torch.softmax(scores, dim=-1) @ v).transpose(0, 1).reshape(len(x_TH), -1))
        return torch.cat(parts) @ cut.output_HQ.T


def _heads(x_TH: Tensor, weight: Tensor, bias: Tensor | None, norm: Tensor | None) -> Tensor:
    heads = functional.linear(x_TH, weight, bias).view(len(x_TH), -1, D).transpose(0, 1)
    return heads if norm is None else functional.rms_norm(heads, (D,), norm, 1e-6)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, two = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-two, one), dim=-1) * sin


def masked(
    x: Tensor,
    query_QH: Tensor,
    key_KH: Tensor,
    value_KH: Tensor,
    output: Any,
    keep: Any = None,
    *,
    lengths_B: list[int] | None = None,
    cos_TD: Tensor,
    sin_TD: Tensor,
    output_bias_H: Tensor | None = None,
    backend: Any = "auto",
    **options: Any,
) -> Tensor:
    """`masked_attention` of everything in one list."""
    heads = Heads(query_QH, key_KH, value_KH, **options)
    packing = Packing.of([x.shape[-2]] if lengths_B is None else lengths_B, cos_TD, sin_TD)
    return masked_attention(x, heads, output, packing, keep, output_bias_H=output_bias_H, backend=backend)


def inner(
    x: Tensor,
    query_QH: Tensor,
    key_KH: Tensor,
    value_KH: Tensor,
    keep: Any = None,
    *,
    lengths_B: list[int],
    cos_TD: Tensor,
    sin_TD: Tensor,
    backend: Any = "auto",
    **options: Any,
) -> Tensor:
    """`attention_inner` of everything in one list."""
    heads = Heads(query_QH, key_KH, value_KH, **options)
    return attention_inner(x, heads, Packing.of(lengths_B, cos_TD, sin_TD), keep, backend=backend)


def draw(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


def draw_block(dtype: torch.dtype, device: torch.device, queries: int = 1, **options: Any) -> Block:
    rows = GROUPS * queries * D
    angle = torch.arange(LONGEST)[:, None] * 100 ** (-torch.arange(D // 2) / (D // 2))
    tables = torch.cat((angle, angle), dim=1)

    def weight(seed: int, *shape: int) -> Tensor:
        return draw(*shape, dtype=dtype, device=device, seed=seed) / math.sqrt(shape[-1])

    return Block(
        weight(1, rows, HIDDEN),
        weight(2, GROUPS * D, HIDDEN),
        weight(3, GROUPS * D, HIDDEN),
        weight(4, HIDDEN, rows),
        {
            "head_dim": D,
            "cos_TD": tables.cos().to(device, dtype),
            "sin_TD": tables.sin().to(device, dtype),
            **options,
        },
        draw(HIDDEN, dtype=dtype, device=device, seed=5),
    )


def draw_x(dtype: torch.dtype, device: torch.device, *shape: int) -> Tensor:
    return draw(*shape, HIDDEN, dtype=dtype, device=device)


def frills(block: Block) -> Block:
    """With biases and norms."""
    like: dict[str, Any] = {"dtype": block.query_QH.dtype, "device": block.query_QH.device}
    return block.changed(
        query_bias_Q=draw(len(block.query_QH), seed=6, **like),
        key_bias_K=draw(len(block.key_KH), seed=7, **like),
        value_bias_K=draw(len(block.key_KH), seed=8, **like),
        query_norm_D=draw(D, seed=9, **like),
        key_norm_D=draw(D, seed=10, **like),
    )


def on_device(numbers: list[int] | int, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=device)


@pytest.fixture
def x(dtype: torch.dtype, device: torch.device) -> Tensor:
    return draw_x(dtype, device, TOKENS)


@pytest.fixture
def single(device: torch.device) -> Block:
    return draw_block(torch.float32, device)


@pytest.fixture
def x32(device: torch.device) -> Tensor:
    return draw_x(torch.float32, device, TOKENS)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "frills"])
def test_equals_attention_cut_to_what_is_kept(
    backend: str, dtype: torch.dtype, device: torch.device, x: Tensor, queries: int, plain: bool
) -> None:
    block = draw_block(dtype, device, queries)
    block = block if plain else frills(block)
    found = masked(x, *block.weights, [2, GROUPS], lengths_B=LENGTHS, **block.options, backend=backend)
    assert found.shape == (2, TOKENS, HIDDEN)
    for groups, part in zip([2, GROUPS], found, strict=True):
        eager, true = (way(x, groups, LENGTHS) for way in (block.eager, block.true))
        assert_as_good_as_eager(part, eager, true)


@pytest.mark.parametrize("window", [1, 9, 33])
def test_a_window_hides_what_is_older(
    backend: str, dtype: torch.dtype, device: torch.device, window: int
) -> None:
    lengths = [5, 70]
    x, block = draw_x(dtype, device, 75), draw_block(dtype, device, window=window)
    found = masked(x, *block.weights, 1, lengths_B=lengths, **block.options, backend=backend)
    assert_as_good_as_eager(found, block.eager(x, 1, lengths), block.true(x, 1, lengths))


def test_scores_are_scaled_by_what_is_given(backend: str, dtype: torch.dtype, device: torch.device) -> None:
    x, block = draw_x(dtype, device, 75), draw_block(dtype, device, scale=0.7)
    found = masked(x, *block.weights, 1, lengths_B=[5, 70], **block.options, backend=backend)
    assert_as_good_as_eager(found, block.eager(x, 1, [5, 70]), block.true(x, 1, [5, 70]))


def test_a_window_as_long_as_the_sequences_hides_nothing(backend: str, single: Block, x32: Tensor) -> None:
    wanted = masked(x32, *single.weights, lengths_B=LENGTHS, **single.options, backend=backend)
    wide = single.changed(window=40)
    found = masked(x32, *wide.weights, lengths_B=LENGTHS, **wide.options, backend=backend)
    assert torch.equal(found, wanted)


def test_every_candidate_may_have_an_input_and_an_output_projection_of_its_own(
    backend: str, dtype: torch.dtype, device: torch.device
) -> None:
    block, keep, lengths = draw_block(dtype, device), [1, GROUPS], [11, 9]
    x = draw_x(dtype, device, 2, 20)
    parts = [block.output_HQ[:, : groups * D] * groups for groups in keep]
    found = masked(x, *block.inner, parts, keep, lengths_B=lengths, **block.options, backend=backend)
    for x_NH, groups, part in zip(x, keep, found, strict=True):
        eager, true = (way(x_NH, groups, lengths) * groups for way in (block.eager, block.true))
        assert_as_good_as_eager(part, eager, true)


def test_inner_is_what_the_projection_reads(
    backend: str, dtype: torch.dtype, device: torch.device, x: Tensor
) -> None:
    block = draw_block(dtype, device)
    found = inner(x, *block.inner, 2, lengths_B=LENGTHS, **block.options, backend=backend)
    assert found.shape == (TOKENS, GROUPS * D)
    true = reference.attention_inner(x, *block.inner, 2, lengths_B=LENGTHS, **block.options)
    identity = replace(block, output_HQ=torch.eye(GROUPS * D, dtype=dtype, device=device))
    assert_as_good_as_eager(found[:, : 2 * D], identity.eager(x, 2, LENGTHS)[:, : 2 * D], true)


@pytest.mark.parametrize("shared", [True, False], ids=["shared input", "own inputs"])
def test_widths_mean_the_same_however_they_are_given(
    backend: str, single: Block, device: torch.device, shared: bool
) -> None:
    x = draw_x(torch.float32, device, *([] if shared else [2]), 20)
    rest: dict[str, Any] = {**single.options, "backend": backend}
    wanted = masked(x, *single.weights, [2, 1], lengths_B=[11, 0, 9], **rest)
    found = masked(x, *single.weights, on_device([2, 1], device), lengths_B=[11, 0, 9], **rest)
    assert torch.equal(found, wanted)
    if shared:
        for number, groups in enumerate([2, 1]):
            for keep in (groups, on_device(groups, device)):
                alone = masked(x, *single.weights, keep, lengths_B=[11, 9], **rest)
                assert alone.shape == (20, HIDDEN)
                torch.testing.assert_close(alone, wanted[number], rtol=1e-5, atol=1e-5)


def test_widths_on_the_device_are_clamped(
    backend: str, single: Block, x32: Tensor, device: torch.device
) -> None:
    rest: dict[str, Any] = {**single.options, "backend": backend}
    found = masked(x32[:9], *single.weights, on_device([-5, 10_000], device), **rest)
    assert torch.equal(found, masked(x32[:9], *single.weights, [0, GROUPS], **rest))


def test_keeping_k_groups_equals_weights_cut_to_k(backend: str, single: Block, x32: Tensor) -> None:
    block = frills(single)
    found = masked(x32, *block.weights, 2, lengths_B=LENGTHS, **block.options, backend=backend)
    cut = block.cut(2)
    wanted = masked(x32, *cut.weights, lengths_B=LENGTHS, **cut.options, backend=backend)
    if backend == "triton":
        assert torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_keeping_all_is_keeping_everything_bit_for_bit(
    backend: str, dtype: torch.dtype, device: torch.device, x: Tensor
) -> None:
    block = draw_block(dtype, device)
    rest: dict[str, Any] = {"lengths_B": LENGTHS, "backend": backend, **block.options}
    everything = masked(x, *block.weights, **rest)
    assert torch.equal(masked(x, *block.weights, GROUPS, **rest), everything)


def test_sequences_do_not_know_what_they_are_packed_with(
    backend: str, single: Block, device: torch.device
) -> None:
    """Cut where the interpreter's BLAS cannot tell (its rows differ by position in a tile)."""
    lengths = [64, 128, 64]
    x = draw_x(torch.float32, device, 256)
    rest: dict[str, Any] = {**single.options, "backend": backend}
    whole = masked(x, *single.weights, 1, lengths_B=lengths, **rest)
    parts = [masked(part, *single.weights, 1, **rest) for part in x.split(lengths)]
    if backend == "triton":
        assert torch.equal(torch.cat(parts), whole)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


def test_a_sequence_never_reads_another(backend: str, single: Block, x32: Tensor) -> None:
    """NaN in the others changes nothing."""
    x32 = x32.clone()
    rest: dict[str, Any] = {**single.options, "backend": backend, "lengths_B": LENGTHS}
    wanted = masked(x32, *single.weights, **rest)
    x32[:1], x32[18:] = math.nan, math.nan
    found = masked(x32, *single.weights, **rest)
    torch.testing.assert_close(found[1:18], wanted[1:18], rtol=1e-5, atol=1e-5)


def test_pruned_groups_change_nothing_whatever_they_hold(
    backend: str, dtype: torch.dtype, device: torch.device, x: Tensor
) -> None:
    block = frills(draw_block(dtype, device))
    poisoned = block.poisoned(2)
    rest: dict[str, Any] = {"lengths_B": LENGTHS, "backend": backend}
    for keep in ([2, 1], on_device([2, 1], device)):
        found = masked(x, *poisoned.weights, keep, **{**poisoned.options, **rest})
        wanted = masked(x, *block.weights, keep, **{**block.options, **rest})
        assert torch.equal(found, wanted)


def test_no_tokens_give_an_empty_result(backend: str, single: Block, x32: Tensor) -> None:
    rest: dict[str, Any] = {**single.options, "backend": backend}
    none = x32[:0]
    assert masked(none, *single.weights, [1, 2], **rest).shape == (2, 0, HIDDEN)
    assert masked(none, *single.weights, lengths_B=[], **rest).shape == (0, HIDDEN)
    assert inner(none, *single.inner, lengths_B=[0, 0], **rest).shape == (0, GROUPS * D)


def test_keeping_nothing_gives_zeros_or_the_bias(
    backend: str, dtype: torch.dtype, device: torch.device, x: Tensor
) -> None:
    block = draw_block(dtype, device)
    rest: dict[str, Any] = {"lengths_B": LENGTHS, "backend": backend, **block.options}
    for keep in (0, on_device(0, device)):
        assert not masked(x, *block.weights, keep, **rest).any()
        found = masked(x, *block.weights, keep, output_bias_H=block.output_bias_H, **rest)
        assert torch.equal(found, block.output_bias_H.expand(TOKENS, HIDDEN))


def test_large_scores_do_not_overflow(backend: str, single: Block, x32: Tensor) -> None:
    large = 1e3 * x32
    found = masked(large, *single.weights, lengths_B=LENGTHS, **single.options, backend=backend)
    true = single.true(large, GROUPS, LENGTHS)
    eager = single.eager(large, GROUPS, LENGTHS)
    assert_as_good_as_eager(found, eager, true)


def test_gradients_pass_through_torch_and_are_refused_by_triton(single: Block, x32: Tensor) -> None:
    x = x32.clone().requires_grad_()
    rest: dict[str, Any] = {"lengths_B": LENGTHS, **single.options}
    masked(x, *single.weights, 2, **rest).square().sum().backward()
    other = x32.clone().requires_grad_()
    single.eager(other, 2, LENGTHS).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-4)
    with pytest.raises(KernelBackendUnavailable, match="gradients"):
        masked(x, *single.weights, **rest, backend="triton")


BIASES = ["query_bias_Q", "key_bias_K", "value_bias_K", "output_bias_H"]
NORMS = ["query_norm_D", "key_norm_D"]


@pytest.mark.parametrize("name", BIASES + NORMS)
def test_gradients_of_biases_and_norms_count(
    single: Block, x32: Tensor, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Triton would be chosen, `auto` takes torch for them."""
    monkeypatch.setattr(backend_room, "select_backend", lambda backend, *_: backend.replace("auto", "triton"))
    block = frills(single)
    options = {**block.options, "output_bias_H": block.output_bias_H, "lengths_B": LENGTHS}
    options[name] = options[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(masked(x32, *block.weights, 2, **options).square().sum(), options[name])
    assert gradient.isfinite().all() and gradient.any()
    with pytest.raises(KernelBackendUnavailable, match="gradients"):
        masked(x32, *block.weights, 2, **options, backend="triton")
    if name != "output_bias_H":
        options.pop("output_bias_H")
        assert inner(x32, *block.inner, 2, **options).requires_grad
        with pytest.raises(KernelBackendUnavailable, match="gradients"):
            inner(x32, *block.inner, 2, **options, backend="triton")


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "rows not contiguous": ("x", {"x": lambda t: t.T.contiguous().T}),
    "dtype of the input": ("x", {"x": lambda t: t.double()}),
    "candidates of the input": ("x", {"x": lambda t: t[None], "keep": [1, 2]}),
    "hidden size": ("query_QH", {"x": lambda t: t[:, :9]}),
    "dtype of keys": ("key_KH", {"key_KH": lambda t: t.half()}),
    "values not contiguous": ("value_KH", {"value_KH": lambda t: t.T.contiguous().T}),
    "keys and values differ": ("value_KH", {"value_KH": lambda t: t[D:]}),
    "queries per group": ("query_QH", {"query_QH": lambda t: t[D:]}),
    "head that does not divide": ("key_KH", {"head_dim": 36}),
    "odd head": ("head_dim", {"head_dim": 3}),
    "head that triton has not": (
        "head_dim",
        {
            "head_dim": 48,
            "cos_TD": lambda t: t[:, :1].repeat(1, 48),
            "sin_TD": lambda t: t[:, :1].repeat(1, 48),
        },
    ),
    "columns of the output": ("output", {"output": lambda t: t[:, 1:]}),
    "size of a table": ("output", {"output": lambda t: [t], "keep": [1, 2]}),
    "narrow table": ("keep", {"output": lambda t: [t[:, :D]], "keep": [2]}),
    "output bias": ("output_bias_H", {"output_bias_H": torch.zeros(3)}),
    "query bias": ("query_bias_Q", {"query_bias_Q": torch.zeros(3)}),
    "key bias": ("key_bias_K", {"key_bias_K": torch.zeros(GROUPS * D).half()}),
    "value bias": ("value_bias_K", {"value_bias_K": torch.zeros(3)}),
    "query norm": ("query_norm_D", {"query_norm_D": torch.zeros(3)}),
    "key norm": ("key_norm_D", {"key_norm_D": torch.zeros(3)}),
    "short cosines": ("cos_TD", {"cos_TD": lambda t: t[:19]}),
    "dtype of tables": ("packing", {"cos_TD": lambda t: t.half(), "sin_TD": lambda t: t.half()}),
    "width of tables": ("packing", {"cos_TD": torch.zeros(20, 16), "sin_TD": torch.zeros(20, 16)}),
    "narrow sines": ("sin_TD", {"sin_TD": lambda t: t[:, :5]}),
    "sum of lengths": ("packing", {"lengths_B": [5, 5]}),
    "negative length": ("lengths", {"lengths_B": [25, -5]}),
    "window of nothing": ("window", {"window": 0}),
    "more than there are": ("keep", {"keep": GROUPS + 1}),
    "dtype of keep": ("keep", {"keep": torch.tensor([1])}),
    "backend": ("backend", {"backend": "cuda"}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name: str) -> None:
    where = torch.device("cpu" if backend_room.runs_on("cpu") else "cuda")
    argument, changes = BAD[name]
    block = draw_block(torch.float32, where)
    given: dict[str, Any] = {
        "x": draw_x(torch.float32, where, 20),
        "query_QH": block.query_QH,
        "key_KH": block.key_KH,
        "value_KH": block.value_KH,
        "output": block.output_HQ,
        "backend": "triton",
        **block.options,
    }
    for key, change in changes.items():
        given[key] = change(given[key]) if callable(change) else change
    with pytest.raises(KernelArgumentError, match=f"^{argument}: ") as caught:
        masked(**given)
    assert caught.value.name == argument


class TestBands:
    """Plain products where a CPU has them fast in bf16, against exact attention on the same inputs."""

    @pytest.mark.parametrize("repeat", [1, 3])
    @pytest.mark.parametrize("span", [None, 5])
    @pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 300])
    def test_short_sequences(self, length: int, span: int | None, repeat: int) -> None:
        generator = torch.Generator().manual_seed(length)
        draw = lambda heads: torch.randn(2, heads, length, 32, generator=generator).bfloat16()  # noqa: E731
        q, k, v = draw(2 * repeat), draw(2), draw(2)
        mask = None
        if span is not None and span < length:
            age = torch.arange(length)[:, None] - torch.arange(length)
            mask = (age >= 0) & (age < span)
        found = torch_attention._attend(q, k, v, repeat, span)
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": mask is None, "enable_gqa": True}
        exact = functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), **options)
        eager = functional.scaled_dot_product_attention(q, k, v, **options)
        error = lambda tensor: float((tensor.double() - exact).abs().max())  # noqa: E731
        assert found.dtype == torch.bfloat16
        assert error(found) <= 2 * error(eager) + 2**-7
        assert float((found.double() - exact).square().mean().sqrt()) < 4e-3

    def test_long_sequences_take_the_other_path_and_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        q, k, v = (torch.randn(1, 2, 64, 32, generator=torch.Generator().manual_seed(1)).bfloat16(),) * 3
        short = torch_attention._attend(q, k, v, 1, None)
        monkeypatch.setattr(torch_attention, "_SHORT", 16)
        assert float((short - torch_attention._attend(q, k, v, 1, None)).abs().max()) < 0.05

    def test_gradients(self) -> None:
        """The bands are written in place where that takes nothing from a graph."""
        generator = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(1, 2, 100, 32, generator=generator).bfloat16().requires_grad_() for _ in range(3)
        )
        found = torch.autograd.grad(
            torch_attention._attend(q, k, v, 1, None).float().square().sum(), (q, k, v)
        )
        exact = functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
        for mine, true in zip(found, torch.autograd.grad(exact.square().sum(), (q, k, v)), strict=True):
            assert float((mine - true).abs().max()) < 0.03 * float(true.abs().max())
