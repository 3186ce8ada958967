"""What the interpreter cannot show, on a GPU: accuracy of the compiled kernels, CUDA graphs, memory.

``pytest -m gpu``; skipped without a GPU, and where kernels are interpreted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from secateur_kernels import (
    Backend,
    Heads,
    KernelArgumentError,
    Packing,
    ProjectionTable,
    linear_kl,
    linear_loss,
    masked_attention,
    masked_mlp,
    masked_projection,
    nested_mlp,
    nested_projection,
    reference,
    teacher_states,
    teacher_top_k,
)
from secateur_kernels.arguments import Widths
from secateur_kernels.backend import runs_on, triton_installed
from tests.kernels.conftest import assert_as_good_as_eager

if triton_installed():
    from secateur_kernels.triton_backend.tile import Tiling, tile_for

pytestmark = pytest.mark.gpu

# Off every block boundary but the row alignment that real models have.
TOKENS, HIDDEN, CHANNELS, VOCABULARY = 777, 1024, 2816, 33_000
GROUPS, QUERIES, D = 4, 3, 64
LENGTHS = [1, 200, 0, 576]
BF16 = torch.bfloat16
MEGABYTE = 1_000_000


@pytest.fixture
def device() -> torch.device:
    """The GPU, with kernels compiled for it."""
    if runs_on("cpu"):
        pytest.skip("kernels are interpreted: choose `-m gpu`, or set TRITON_INTERPRET=0")
    return torch.device("cuda")


def draw(device: torch.device, *shape: int, seed: int, scale: float | None = None) -> Tensor:
    """Normal numbers; without a scale a weight that keeps the size of what it multiplies."""
    generator = torch.Generator().manual_seed(seed)
    scale = shape[-1] ** -0.5 if scale is None else scale
    return (torch.randn(*shape, generator=generator) * scale).to(device, BF16)


def draw_mlp(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = (draw(device, CHANNELS, HIDDEN, seed=seed) for seed in (1, 2))
    return gate, up, draw(device, HIDDEN, CHANNELS, seed=3)


def draw_heads(device: torch.device, **options: Any) -> tuple[Heads, Tensor]:
    """Heads with biases and norms, and an output projection."""
    rows = GROUPS * QUERIES * D
    query, key, value = (
        draw(device, size, HIDDEN, seed=seed)
        for seed, size in enumerate((rows, GROUPS * D, GROUPS * D), start=1)
    )
    heads = Heads(
        query,
        key,
        value,
        D,
        query_bias_Q=draw(device, rows, seed=4, scale=0.1),
        key_bias_K=draw(device, GROUPS * D, seed=5, scale=0.1),
        value_bias_K=draw(device, GROUPS * D, seed=6, scale=0.1),
        query_norm_D=1 + draw(device, D, seed=7, scale=0.1),
        key_norm_D=1 + draw(device, D, seed=8, scale=0.1),
        **options,
    )
    return heads, draw(device, HIDDEN, rows, seed=9)


def pack(device: torch.device, lengths: list[int]) -> Packing:
    angle = torch.arange(max(lengths))[:, None] * 10_000 ** (-torch.arange(D // 2) / (D // 2))
    table = torch.cat((angle, angle), dim=1)
    return Packing.of(lengths, table.cos().to(device, BF16), table.sin().to(device, BF16))


def true_attention(x: Tensor, heads: Heads, output: Tensor, packing: Packing, groups: int) -> Tensor:
    inner = reference.attention_inner(
        x,
        heads.query_QH,
        heads.key_KH,
        heads.value_KH,
        groups,
        head_dim=D,
        cos_TD=packing.cos_TD,
        sin_TD=packing.sin_TD,
        lengths_B=packing.lengths,
        window=heads.window,
        query_bias_Q=heads.query_bias_Q,
        key_bias_K=heads.key_bias_K,
        value_bias_K=heads.value_bias_K,
        query_norm_D=heads.query_norm_D,
        key_norm_D=heads.key_norm_D,
    )
    return inner @ output[:, : groups * QUERIES * D].double().T


def test_projections(device: torch.device) -> None:
    inner, weight = draw(device, TOKENS, CHANNELS, seed=1, scale=1.0), draw(device, HIDDEN, CHANNELS, seed=2)
    widths = [0, 8, 1000, CHANNELS]
    masked = masked_projection(inner, weight, widths, backend="triton")
    nested = nested_projection(inner, weight, widths, backend="triton")
    table = ProjectionTable(tuple(weight[:, :width].clone() for width in widths))
    tabled = masked_projection(inner, table, widths, backend="triton")
    for number, width in enumerate(widths):
        true = reference.masked_projection(inner, weight, width)
        eager = inner[:, :width] @ weight[:, :width].T
        for found in (masked, nested, tabled):
            assert_as_good_as_eager(found[number], eager, true)


def test_mlps(device: torch.device) -> None:
    x, (gate, up, down) = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0), draw_mlp(device)
    widths = [0, 100, 1408, CHANNELS]
    masked = masked_mlp(x, gate, up, down, widths, backend="triton")
    nested = nested_mlp(x, gate, up, down, widths, backend="triton")
    order = torch.arange(CHANNELS, dtype=torch.int32, device=device)
    listed = masked_mlp(x, gate, up, down, widths, index_C=order, backend="triton")
    for number, width in enumerate(widths):
        true = reference.masked_mlp(x, gate, up, down, slice(width))
        inner = functional.silu(x @ gate[:width].T) * (x @ up[:width].T)
        for found in (masked, nested, listed):
            assert_as_good_as_eager(found[number], inner @ down[:, :width].T, true)


@pytest.mark.parametrize("window", [None, 100])
def test_attention(device: torch.device, window: int | None) -> None:
    heads, output = draw_heads(device, window=window)
    x, packing = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0), pack(device, LENGTHS)
    kept = [1, GROUPS]
    found = masked_attention(x, heads, output, packing, kept, backend="triton")
    eager = masked_attention(x, heads, output, packing, kept, backend="torch")
    for number, groups in enumerate(kept):
        true = true_attention(x, heads, output, packing, groups)
        assert_as_good_as_eager(found[number], eager[number], true)


def test_losses(device: torch.device) -> None:
    teacher, head = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0), draw(device, VOCABULARY, HIDDEN, seed=1)
    hidden = teacher + draw(device, TOKENS, HIDDEN, seed=2, scale=0.3)
    target = torch.arange(TOKENS, device=device) * 41 % VOCABULARY
    log_p, log_q = (torch.log_softmax((states @ head.T).float(), -1) for states in (teacher, hidden))
    states = teacher_states(teacher, head, backend="triton")
    found = linear_loss(hidden, head, target, entropy=True, backend="triton")
    assert_as_good_as_eager(
        found.nll_N,
        functional.nll_loss(log_q, target, reduction="none"),
        reference.linear_nll(hidden, head, target),
    )
    assert found.entropy_N is not None
    assert_as_good_as_eager(found.entropy_N, -(log_q.exp() * log_q).sum(-1), reference.entropy(hidden, head))
    against = linear_loss(hidden, head, target, teacher=states, backend="triton")
    assert against.kl_N is not None
    true = reference.linear_kl(hidden, teacher, head)
    eager = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert_as_good_as_eager(against.kl_N, eager, true)
    top = teacher_top_k(teacher, head, 100, backend="triton")
    coarse = linear_loss(hidden, head, target, teacher=top, backend="triton")
    assert coarse.kl_N is not None
    bound = reference.top_k_kl(hidden, teacher, head, top.ids_NK)
    allowed = 2 * float((eager.double() - true).abs().max()) + 1e-5
    assert float((coarse.kl_N.double() - bound).abs().max()) <= allowed
    for same in (states, top):
        itself = linear_loss(teacher, head, target, teacher=same, backend="triton")
        assert itself.kl_N is not None and float(itself.kl_N.max()) == 0.0


@pytest.mark.parametrize("tiling", ["plain", "walked"])
def test_both_tilings(device: torch.device, tiling: Tiling) -> None:
    from secateur_kernels.triton_backend.linear_loss import losses
    from secateur_kernels.triton_backend.mlp import gated_inner

    teacher, head = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0), draw(device, VOCABULARY, HIDDEN, seed=1)
    hidden = teacher + draw(device, TOKENS, HIDDEN, seed=2, scale=0.3)
    target = torch.arange(TOKENS, device=device) * 41 % VOCABULARY
    logits = (hidden @ head.T).float()
    alone = losses(hidden, head, target, tile=tile_for("linear_loss", BF16, device, tiling))
    eager = functional.cross_entropy(logits, target, reduction="none")
    assert_as_good_as_eager(alone.lse_N - alone.logit_N, eager, reference.linear_nll(hidden, head, target))
    lse = teacher_states(teacher, head, backend="triton").lse_N
    tile = tile_for("linear_kl", BF16, device, tiling)
    against = losses(hidden, head, target, teacher_NH=teacher, teacher_lse_N=lse, tile=tile)
    log_p, log_q = (torch.log_softmax((states @ head.T).float(), -1) for states in (teacher, hidden))
    assert against.kl_N is not None
    eager_kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert_as_good_as_eager(against.kl_N, eager_kl, reference.linear_kl(hidden, teacher, head))
    gate, up, _ = draw_mlp(device)
    kept, tile = Widths((1000,), None, True), tile_for("gated_inner", BF16, device, tiling)
    inner = gated_inner(hidden, gate, up, kept, None, None, None, tile=tile)[:, :1000]
    x, gate64, up64 = (tensor.double() for tensor in (hidden, gate[:1000], up[:1000]))
    true = functional.silu(x @ gate64.T) * (x @ up64.T)
    assert_as_good_as_eager(inner, functional.silu(hidden @ gate[:1000].T) * (hidden @ up[:1000].T), true)


def test_a_batch_may_be_split_anywhere(device: torch.device) -> None:
    """Tensor cores do not round a row by its place in a tile, as the interpreter's BLAS does."""
    hidden, head = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0), draw(device, VOCABULARY, HIDDEN, seed=1)
    target = torch.arange(TOKENS, device=device)
    whole = linear_loss(hidden, head, target, backend="triton")
    parts = [
        linear_loss(hidden[rows], head, target[rows], backend="triton").nll_N
        for rows in (slice(0, 77), slice(77, 400), slice(400, None))
    ]
    assert torch.equal(torch.cat(parts), whole.nll_N)


def capture(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of a call, which has run before (kernels compiled, addresses on the device), and its result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


@pytest.mark.parametrize("own_inputs", [False, True], ids=["shared input", "own inputs"])
def test_one_graph_serves_every_width_of_an_mlp(device: torch.device, own_inputs: bool) -> None:
    gate, up, down = draw_mlp(device)
    x = draw(device, *([2] if own_inputs else []), TOKENS, HIDDEN, seed=0, scale=1.0)
    keep = torch.tensor([CHANNELS, 8], dtype=torch.int32, device=device)
    graph, found = capture(lambda: masked_mlp(x, gate, up, down, keep, backend="triton"))
    for widths in ([CHANNELS, 8], [0, 1000], [99, 99], [5, CHANNELS]):
        keep.copy_(torch.tensor(widths, dtype=torch.int32))
        graph.replay()
        assert torch.equal(found, masked_mlp(x, gate, up, down, widths, backend="triton"))


def test_one_graph_serves_every_width_of_a_table(device: torch.device) -> None:
    gate, up, down = draw_mlp(device)
    x = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0)
    table = ProjectionTable((down, 2 * down))
    keep = torch.tensor([CHANNELS, 8], dtype=torch.int32, device=device)
    graph, found = capture(lambda: masked_mlp(x, gate, up, table, keep, backend="triton"))
    for widths in ([0, 1000], [CHANNELS, 3]):
        keep.copy_(torch.tensor(widths, dtype=torch.int32))
        graph.replay()
        assert torch.equal(found, masked_mlp(x, gate, up, table, widths, backend="triton"))


@pytest.mark.parametrize("own_inputs", [False, True], ids=["shared input", "own inputs"])
def test_one_graph_serves_every_width_of_attention(device: torch.device, own_inputs: bool) -> None:
    heads, output = draw_heads(device)
    packing = pack(device, LENGTHS)
    x = draw(device, *([2] if own_inputs else []), TOKENS, HIDDEN, seed=0, scale=1.0)
    keep = torch.tensor([GROUPS, 1], dtype=torch.int32, device=device)
    graph, found = capture(lambda: masked_attention(x, heads, output, packing, keep, backend="triton"))
    for widths in ([GROUPS, 1], [0, 2], [1, GROUPS]):
        keep.copy_(torch.tensor(widths, dtype=torch.int32))
        graph.replay()
        wanted = masked_attention(x, heads, output, packing, widths, backend="triton")
        assert torch.equal(found, wanted)


def test_integers_are_refused_inside_a_graph(device: torch.device) -> None:
    gate, up, down = draw_mlp(device)
    x = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0)
    masked_mlp(x, gate, up, down, [8, 16], backend="triton")
    with pytest.raises(KernelArgumentError, match="int32 tensor"):
        capture(lambda: masked_mlp(x, gate, up, down, [8, 16], backend="triton"))


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_the_host_waits_for_nothing(device: torch.device, backend: Backend) -> None:
    """Also with widths, tables and packings that are new."""
    x, (gate, up, down) = draw(device, TOKENS, HIDDEN, seed=0, scale=1.0), draw_mlp(device)
    (heads, output), packing = draw_heads(device), pack(device, LENGTHS)
    head, target = draw(device, VOCABULARY, HIDDEN, seed=1), torch.zeros(TOKENS, dtype=torch.int64).to(device)

    def calls(width: int) -> None:
        table = ProjectionTable((down, 2 * down))
        masked_mlp(x, gate, up, table, [width, 2 * width], backend=backend)
        nested_mlp(x, gate, up, down, [width, 2 * width], backend=backend)
        again = Packing.of(LENGTHS, packing.cos_TD, packing.sin_TD)
        masked_attention(x, heads, output, again, [1, GROUPS], backend=backend)
        teacher = teacher_states(x, head, target, backend=backend)
        linear_kl(x, teacher, head, target, backend=backend)

    calls(8)  # compiles
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        calls(1000)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("against", [False, True], ids=["alone", "against a teacher"])
def test_a_loss_keeps_no_logits(device: torch.device, against: bool) -> None:
    """Logits would take 4.3 GB in fp32. Against a teacher the difference of the states is 67 MB."""
    tokens, hidden, vocabulary = 8192, 4096, 131_072
    states, head = (
        torch.randn(rows, hidden, device=device, dtype=BF16) / math.sqrt(hidden)
        for rows in (tokens, vocabulary)
    )
    target = torch.zeros(tokens, dtype=torch.int64, device=device)
    teacher = teacher_states(states, head, backend="triton") if against else None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = linear_loss(states, head, target, teacher=teacher, backend="triton")
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 100 * MEGABYTE
    assert found.nll_N.isfinite().all()
