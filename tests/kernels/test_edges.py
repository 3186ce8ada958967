"""Bad input is named before anything runs, and nothing at all is a case like any other, on both backends.

One table of the public functions, gone through by every check: zero tokens, inputs, outputs, widths; wrong
shapes, dtypes, devices, strides and widths of every operand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur_kernels import (
    Heads,
    KernelArgumentError,
    Packing,
    TeacherStates,
    TeacherTopK,
    linear_loss,
    masked_attention,
    masked_mlp,
    masked_projection,
    nested_mlp,
    nested_projection,
)

N, H, C, D, GROUPS, V = 5, 24, 40, 32, 2, 50
Given = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A public function.

    Attributes:
        call: it, by the names of its arguments.
        shapes: of every tensor it multiplies, the input first.
        limit: the widest that it may keep; 0 where it keeps nothing.
        keep: name of the argument that says what is kept.
        nested: whether its widths are an ascending sequence.
        optional: shapes of vectors that may be given.
    """

    call: Callable[..., Tensor]
    shapes: dict[str, tuple[int, ...]]
    limit: int
    keep: str = "keep"
    nested: bool = False
    optional: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def input(self) -> str:
        return next(iter(self.shapes))

    def given(self, device: torch.device, **changed: tuple[int, ...]) -> Given:
        generator = torch.Generator().manual_seed(0)
        shapes = {**self.shapes, **self.optional, **changed}
        return {name: torch.randn(*shape, generator=generator).to(device) for name, shape in shapes.items()}


def attention(
    x: Tensor,
    query_QH: Tensor,
    key_KH: Tensor,
    value_KH: Tensor,
    output: Any,
    keep: Any = None,
    *,
    lengths: list[int] | None = None,
    output_bias_H: Tensor | None = None,
    backend: Any,
    **options: Any,
) -> Tensor:
    table = torch.ones(N, D, dtype=x.dtype if x.is_floating_point() else torch.float32, device=x.device)
    lengths = [x.shape[-2] if x.dim() > 1 else N] if lengths is None else lengths
    packing = Packing.of(lengths, table, table)
    heads = Heads(query_QH, key_KH, value_KH, D, **options)
    return masked_attention(x, heads, output, packing, keep, output_bias_H=output_bias_H, backend=backend)


def loss(hidden_NH: Tensor, head_VH: Tensor, *, backend: Any) -> Tensor:
    target = torch.zeros(hidden_NH.shape[:1], dtype=torch.int64, device=hidden_NH.device)
    return linear_loss(hidden_NH, head_VH, target, backend=backend).nll_N


MLP = {"gate_CH": (C, H), "up_CH": (C, H)}
MLP_BIASES = {"gate_bias_C": (C,), "up_bias_C": (C,)}
SUBJECTS = {
    "masked_mlp": Subject(
        masked_mlp, {"x": (N, H), **MLP, "down": (H, C)}, C, optional={**MLP_BIASES, "down_bias_H": (H,)}
    ),
    "nested_mlp": Subject(
        nested_mlp, {"x_NH": (N, H), **MLP, "down_HC": (H, C)}, C, "kept", True, optional=MLP_BIASES
    ),
    "masked_attention": Subject(
        attention,
        {
            "x": (N, H),
            "query_QH": (3 * GROUPS * D, H),
            "key_KH": (GROUPS * D, H),
            "value_KH": (GROUPS * D, H),
            "output": (H, 3 * GROUPS * D),
        },
        GROUPS,
        optional={
            "query_bias_Q": (3 * GROUPS * D,),
            "key_bias_K": (GROUPS * D,),
            "value_bias_K": (GROUPS * D,),
            "query_norm_D": (D,),
            "key_norm_D": (D,),
            "output_bias_H": (H,),
        },
    ),
    "masked_projection": Subject(
        masked_projection, {"inner": (N, C), "weight": (H, C)}, C, optional={"bias_H": (H,)}
    ),
    "nested_projection": Subject(
        nested_projection, {"inner_NC": (N, C), "weight_HC": (H, C)}, C, "kept", True
    ),
    "linear_loss": Subject(loss, {"hidden_NH": (N, H), "head_VH": (V, H)}, 0),
}
BIAS = {masked_mlp: "down_bias_H", attention: "output_bias_H", masked_projection: "bias_H"}
KEEPING = [name for name, subject in SUBJECTS.items() if subject.limit]
MASKED = [name for name in KEEPING if not SUBJECTS[name].nested]
NESTED = [name for name in KEEPING if SUBJECTS[name].nested]
OPERANDS = [(name, operand) for name, subject in SUBJECTS.items() for operand in subject.shapes]
WEIGHTS = [(name, operand) for name, operand in OPERANDS if operand != SUBJECTS[name].input]
VECTORS = [(name, vector) for name, subject in SUBJECTS.items() for vector in subject.optional]


def each(pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "operand"), pairs, ids=list(map("-".join, pairs)))


def on_device(counts: list[int] | int, device: torch.device) -> Tensor:
    return torch.tensor(counts, dtype=torch.int32, device=device)


def run(subject: Subject, given: Given, backend: str, keep: Any = None) -> Tensor:
    if subject.limit:
        keep = [subject.limit] if keep is None and subject.nested else keep
        given = {**given, subject.keep: keep}
    return subject.call(**given, backend=backend)


def refused(subject: Subject, given: Given, backend: str, named: str, keep: Any = None) -> None:
    with pytest.raises(KernelArgumentError, match=f"^{named}: .* given; ") as caught:
        run(subject, given, backend, keep)
    assert caught.value.name == named


class TestBad:
    @each(OPERANDS)
    @pytest.mark.parametrize("wrong", [torch.float64, torch.int64, torch.complex64], ids=str)
    def test_dtype(
        self, backend: str, device: torch.device, name: str, operand: str, wrong: torch.dtype
    ) -> None:
        given = SUBJECTS[name].given(device)
        refused(SUBJECTS[name], {**given, operand: given[operand].to(wrong)}, backend, operand)

    @each([pair for pair in WEIGHTS if pair[0] != "linear_loss"])  # which multiplies in the head's
    def test_dtype_unlike_the_input_s(
        self, backend: str, device: torch.device, name: str, operand: str
    ) -> None:
        given = SUBJECTS[name].given(device)
        refused(SUBJECTS[name], {**given, operand: given[operand].half()}, backend, operand)

    @each(WEIGHTS)
    def test_device(self, backend: str, device: torch.device, name: str, operand: str) -> None:
        given = SUBJECTS[name].given(device)
        refused(SUBJECTS[name], {**given, operand: given[operand].to("meta")}, backend, operand)

    @each(OPERANDS)
    def test_rows_not_contiguous(self, backend: str, device: torch.device, name: str, operand: str) -> None:
        given = SUBJECTS[name].given(device)
        for apart in (given[operand].T.contiguous().T, given[operand].repeat_interleave(2, 1)[:, ::2]):
            refused(SUBJECTS[name], {**given, operand: apart}, backend, operand)

    @each(OPERANDS)
    def test_dimensions(self, backend: str, device: torch.device, name: str, operand: str) -> None:
        given = SUBJECTS[name].given(device)
        for shape in (given[operand][0], given[operand][None, None]):
            refused(SUBJECTS[name], {**given, operand: shape}, backend, operand)

    @each(WEIGHTS)
    def test_columns(self, backend: str, device: torch.device, name: str, operand: str) -> None:
        given = SUBJECTS[name].given(device)
        for columns in (given[operand][:, 1:], given[operand].repeat(1, 2)):
            refused(SUBJECTS[name], {**given, operand: columns}, backend, operand)

    @each(VECTORS)
    def test_vectors(self, backend: str, device: torch.device, name: str, operand: str) -> None:
        given = SUBJECTS[name].given(device)
        vector = given[operand]
        for wrong in (
            vector[1:],
            vector[None],
            vector.half(),
            vector.to("meta"),
            vector.repeat_interleave(2)[::2],
        ):
            refused(SUBJECTS[name], {**given, operand: wrong}, backend, operand)

    @pytest.mark.parametrize("name", KEEPING)
    def test_widths(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        given = subject.given(device)
        for keep in (
            [],
            [subject.limit + 1],
            [-1],
            [1.0],
            [True],
            [None],
            "1",
            b"1",
            1.0,
            True,
            {1},
            on_device([], device),
            on_device([1], device).long(),
            on_device([1], device).float(),
            on_device([[1]], device),
            on_device([1], torch.device("meta")),
        ):
            refused(subject, given, backend, subject.keep, keep)

    @pytest.mark.parametrize("name", MASKED)
    def test_masks_longer_than_the_weights(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        refused(subject, subject.given(device), backend, subject.keep, subject.limit + 1)
        refused(subject, subject.given(device), backend, subject.keep, [0, subject.limit + 1])

    @pytest.mark.parametrize("name", NESTED)
    def test_nested_widths(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        given = subject.given(device)
        for kept in ([2, 1], [0, 5, 4, 9], 3, None, on_device([1, 2], device), on_device([-5, 99], device)):
            with pytest.raises(KernelArgumentError, match=r"^kept: "):
                subject.call(**given, kept=kept, backend=backend)

    @pytest.mark.parametrize("name", MASKED)
    def test_candidates(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        for candidates, keep in ((2, [1]), (1, [1, 1]), (3, on_device([1, 1], device)), (2, 1), (2, None)):
            given = subject.given(device, **{subject.input: (candidates, *subject.shapes[subject.input])})
            refused(subject, given, backend, subject.input, keep)

    @pytest.mark.parametrize("name", ["masked_mlp", "nested_mlp"])
    def test_indexes(self, backend: str, device: torch.device, name: str) -> None:
        index_C = torch.arange(C, dtype=torch.int32, device=device)
        given = SUBJECTS[name].given(device)
        for wrong in (
            index_C.long(),
            index_C.float(),
            index_C[None],
            index_C[::2],
            index_C.repeat(2),
            index_C.to("meta"),
        ):
            refused(SUBJECTS[name], {**given, "index_C": wrong}, backend, "index_C")
        refused(SUBJECTS[name], {**given, "index_C": index_C[:3]}, backend, SUBJECTS[name].keep, [4])

    @pytest.mark.parametrize("name", ["masked_projection", "nested_projection"])
    def test_spans(self, backend: str, device: torch.device, name: str) -> None:
        given = SUBJECTS[name].given(device)
        for span in (0, -1, 3, C + 1, 2.0, True):
            refused(SUBJECTS[name], {**given, "span": span}, backend, "span")
        refused(SUBJECTS[name], {**given, "span": 8}, backend, SUBJECTS[name].keep, [6])

    @pytest.mark.parametrize("name", SUBJECTS)
    def test_backends(self, device: torch.device, name: str) -> None:
        for wrong in ("cuda", "", None):
            refused(SUBJECTS[name], SUBJECTS[name].given(device), wrong, "backend")  # type: ignore[arg-type]

    def test_teachers(self, backend: str, device: torch.device) -> None:
        given = SUBJECTS["linear_loss"].given(device)
        target = torch.zeros(N, dtype=torch.int64, device=device)
        lse, ids = torch.zeros(N, device=device), torch.zeros(N, 4, dtype=torch.int32, device=device)
        states, log_p = given["hidden_NH"], torch.zeros(N, 4, device=device)
        for teacher in (
            TeacherStates(states[:, 1:], lse),
            TeacherStates(states.T.contiguous().T, lse),
            TeacherStates(states.double(), lse),
            TeacherStates(states.to("meta"), lse),
            TeacherStates(states, lse.to("meta")),
            TeacherStates(states, lse[None]),
            TeacherTopK(ids.to("meta"), log_p),
            TeacherTopK(ids, log_p.double()),
            TeacherTopK(ids[:, 0], log_p[:, 0]),
            lse,
        ):
            with pytest.raises(KernelArgumentError, match=r"^teacher: "):
                linear_loss(**given, target_N=target, teacher=teacher, backend=backend)  # type: ignore[arg-type]


class TestNothing:
    @pytest.mark.parametrize("name", MASKED)
    def test_no_tokens(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        shape = subject.shapes[subject.input]
        none = subject.given(device, **{subject.input: (0, shape[1])})
        for keep in (None, 0, 1, on_device(1, device)):
            assert run(subject, none, backend, keep).shape == (0, H)
        for keep in ([0, 1], on_device([1, 1], device)):
            assert run(subject, none, backend, keep).shape == (2, 0, H)
            own = subject.given(device, **{subject.input: (2, 0, shape[1])})
            assert run(subject, own, backend, keep).shape == (2, 0, H)

    @pytest.mark.parametrize("name", NESTED)
    def test_no_tokens_nested(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        none = subject.given(device, **{subject.input: (0, subject.shapes[subject.input][1])})
        for kept in ([0], [1], [0, 1, 1]):
            assert run(subject, none, backend, kept).shape == (len(kept), 0, H)

    def test_no_tokens_to_score(self, backend: str, device: torch.device) -> None:
        none = SUBJECTS["linear_loss"].given(device, hidden_NH=(0, H))
        assert loss(**none, backend=backend).shape == (0,)

    def test_no_sequences(self, backend: str, device: torch.device) -> None:
        none = SUBJECTS["masked_attention"].given(device, x=(0, H))
        for lengths in ([], [0], [0, 0]):
            assert attention(**none, keep=[0, 2], lengths=lengths, backend=backend).shape == (2, 0, H)

    @pytest.mark.parametrize("name", MASKED)
    def test_keeping_nothing_reads_no_weight(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        given = subject.given(device)
        bias_H = given[BIAS[subject.call]]
        nan = {operand: torch.full_like(value, torch.nan) for operand, value in given.items()}
        nan[subject.input] = given[subject.input]
        for bias, wanted in ((None, torch.zeros(H, device=device)), (bias_H, bias_H)):
            nan[BIAS[subject.call]] = bias
            for keep in (0, on_device(0, device)):
                assert torch.equal(run(subject, nan, backend, keep), wanted.expand(N, H))
            for keep in ([0, 0], on_device([0, 0], device), on_device([-1, -9], device)):
                assert torch.equal(run(subject, nan, backend, keep), wanted.expand(2, N, H))
                own = {**nan, subject.input: torch.stack([given[subject.input]] * 2)}
                assert torch.equal(run(subject, own, backend, keep), wanted.expand(2, N, H))

    @pytest.mark.parametrize("name", NESTED)
    def test_nests_of_nothing(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        nan = {operand: torch.full_like(value, torch.nan) for operand, value in subject.given(device).items()}
        assert not run(subject, nan, backend, [0, 0]).any()

    @pytest.mark.parametrize("name", SUBJECTS)
    def test_no_input_channels(self, backend: str, device: torch.device, name: str) -> None:
        """Products with nothing in them are zero; biases are still there."""
        subject = SUBJECTS[name]
        shapes = {
            operand: (*shape[:-1], 0)
            for operand, shape in subject.shapes.items()
            if shape[-1] == subject.shapes[subject.input][-1]
        }
        given = subject.given(device, **shapes)
        plain = {operand: given[operand] for operand in subject.shapes}
        if name == "linear_loss":
            found = run(subject, given, backend)
            torch.testing.assert_close(found, torch.full((N,), float(V), device=device).log())
        elif "projection" in name:  # what may be kept is the input itself
            empty = {**plain, subject.keep: [0]}
            assert not subject.call(**empty, backend=backend).any()
        else:
            assert not run(subject, plain, backend).any()
            found, wanted = (run(subject, given, way) for way in (backend, "torch"))
            assert found.any()
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", KEEPING)
    def test_no_outputs(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        last = list(subject.shapes)[-1]
        given = subject.given(device, **{last: (0, subject.shapes[last][1])})
        if subject.call in BIAS:
            given[BIAS[subject.call]] = given[BIAS[subject.call]][:0]
        assert run(subject, given, backend, [1, 1]).shape == (2, N, 0)

    @pytest.mark.parametrize("name", ["masked_mlp", "nested_mlp"])
    def test_no_inner_channels(self, backend: str, device: torch.device, name: str) -> None:
        subject = SUBJECTS[name]
        down = list(subject.shapes)[-1]
        given = subject.given(device, gate_CH=(0, H), up_CH=(0, H), **{down: (H, 0)})
        plain = {operand: given[operand] for operand in subject.shapes}
        assert not run(subject, plain, backend, [0]).any()

    def test_no_vocabulary_and_no_heads_are_refused(self, backend: str, device: torch.device) -> None:
        empty = SUBJECTS["linear_loss"].given(device, head_VH=(0, H))
        refused(SUBJECTS["linear_loss"], empty, backend, "head_VH")
        subject = SUBJECTS["masked_attention"]
        for operand in ("key_KH", "query_QH"):
            refused(subject, subject.given(device, **{operand: (0, H)}), backend, operand)
