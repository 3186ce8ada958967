"""Constraints on the space: widths that a tensor-parallel server can share out, whole layers, few shapes.

Proven (property): every allowed width keeps vLLM's rules for the ranks; the narrowest architectures
lie in the space and nothing in it is narrower; what the dense model cannot meet is one line.
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import BadInput
from secateur.model.architecture import Architecture
from secateur.space.space import Space, parse_protected_layers, shapes_of


def vllm_serves(groups: int, queries: int, channels: int, tp: int) -> bool:
    """vLLM 0.32: QKVParallelLinear, LlamaAttention, divide."""
    heads = groups * queries
    shared = groups % tp == 0 if groups >= tp else not groups or tp % groups == 0
    return heads % tp == 0 and shared and channels % tp == 0


@settings(max_examples=200, deadline=None)
@given(
    groups=st.integers(1, 16),
    queries=st.integers(1, 8),
    channels=st.integers(1, 40).map(lambda n: 8 * n),
    tp=st.integers(1, 16),
    quantum=st.sampled_from([1, 8, 24]),
)
def test_whatever_is_allowed_can_be_shared_out(
    groups: int, queries: int, channels: int, tp: int, quantum: int
) -> None:
    dense = Architecture((groups,) * 2, (channels,) * 2)
    if quantum > channels:
        return
    if not vllm_serves(groups, queries, channels, tp):
        with pytest.raises(BadInput, match="tp: got"):
            Space(dense, quantum, tp, queries)
        return
    space = Space(dense, quantum, tp, queries)
    for layer in (0, 1):
        assert all(vllm_serves(g, queries, channels, tp) for g in space.widths(layer, "attention"))
        assert all(c % tp == 0 for c in space.widths(layer, "ffn"))
        assert all(c % (quantum * tp) == 0 for c in space.widths(layer, "ffn")[:-1])
        assert space.widths(layer, "attention")[-1] == groups
    assert space.widths(0, "attention")[0] > 0


def test_replicated_groups() -> None:
    """Two KV heads of four queries on four ranks: one group has too few to be worth... but vLLM serves it."""
    space = Space(Architecture((2, 2), (64, 64)), 8, 4, 4)
    assert space.widths(1, "attention") == (0, 1, 2)
    assert Space(Architecture((2, 2), (64, 64)), 8, 4, 2).widths(1, "attention") == (0, 2)


def test_protected_layers_are_whole() -> None:
    space = Space(Architecture((3,) * 4, (64,) * 4), 32, protected=frozenset({0, 3}))
    assert [space.widths(layer, "ffn") for layer in range(4)] == [(64,), (0, 32, 64), (0, 32, 64), (64,)]
    assert space.widths(3, "attention") == (3,)


@pytest.mark.parametrize("protected", [(), (0,), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_narrowest_is_what_brute_force_finds(protected: tuple[int, ...], most: int) -> None:
    space = Space(Architecture((2,) * 3, (4,) * 3), 2, protected=frozenset(protected), max_shapes=most)
    menus = [space.widths(*slot) for slot in space.slots]
    every = [Architecture(path[0::2], path[1::2]) for path in product(*menus)]
    inside = [item for item in every if space.contains(item)]
    assert all(len(shapes_of(item)) <= most for item in inside)
    assert all(space.contains(item) for item in space.narrowest)
    for weights in ((1, 1), (10, 1), (1, 10), (0, 1), (1, 0)):
        cost = [weights[0] * sum(item.groups) + weights[1] * sum(item.channels) for item in inside]
        least = [weights[0] * sum(item.groups) + weights[1] * sum(item.channels) for item in space.narrowest]
        assert min(least) == min(cost)


def test_constraints_are_part_of_the_identity_and_none_is_nothing() -> None:
    dense = Architecture((3, 3), (64, 64))
    assert Space(dense, 32).to_json() == {"dense": dense.to_json(), "quantum": 32}
    held = Space(dense, 32, protected=frozenset({1}), max_shapes=2).to_json()
    assert (held["protected"], held["max_shapes"]) == ([1], 2)


def test_few_shapes_of_a_model_whose_layers_differ() -> None:
    with pytest.raises(BadInput, match="max_shapes: got 2: the layers of the dense model differ"):
        Space(Architecture((3, 2), (64, 64)), 32, max_shapes=2)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("", []),
        ("0,1,29", [0, 1, 29]),
        ("first:2,last:1", [0, 1, 29]),
        ("last:2,3", [3, 28, 29]),
        ("first:0", []),
        ("first:30", list(range(30))),
    ],
)
def test_protected_by_name(text: str, layers: list[int]) -> None:
    assert sorted(parse_protected_layers(text.split(",") if text else [], 30)) == layers


@pytest.mark.parametrize("text", ["30", "first:31", "last:31", "0,30"])
def test_no_layers_by_that_name(text: str) -> None:
    with pytest.raises(BadInput, match="protect: got"):
        parse_protected_layers(text.split(","), 30)


class TestSpace:
    def space(self, quantum: int = 64, channels: int = 200) -> Space:
        return Space(Architecture((3, 3), (channels, channels)), quantum)

    def test_widths(self) -> None:
        space = self.space()
        assert space.widths(1, "attention") == (0, 1, 2, 3)
        assert space.widths(0, "ffn") == (0, 64, 128, 192, 200)

    def test_the_first_layer_keeps_an_attention(self) -> None:
        assert self.space().widths(0, "attention") == (1, 2, 3)

    def test_one_group(self) -> None:
        assert Space(Architecture((1, 1), (8, 8)), 4).widths(0, "attention") == (1,)

    @given(quantum=st.integers(1, 200), channels=st.integers(200, 500))
    def test_quantum(self, quantum: int, channels: int) -> None:
        widths = self.space(quantum, channels).widths(1, "ffn")
        assert widths[0] == 0 and widths[-1] == channels and list(widths) == sorted(set(widths))
        assert all(width % quantum == 0 for width in widths[:-1])

    @pytest.mark.parametrize("quantum", [0, -1, 201])
    def test_bad_quantum(self, quantum: int) -> None:
        with pytest.raises(BadInput, match=f"quantum: got {quantum}: allowed are 1 to 200"):
            self.space(quantum)

    def test_contains(self) -> None:
        space = self.space()
        assert space.contains(space.dense)
        assert space.contains(Architecture((1, 0), (0, 200)))
        assert not space.contains(Architecture((0, 1), (0, 200)))
        assert not space.contains(Architecture((1, 0), (1, 200)))
        assert not space.contains(Architecture((1,), (64,)))

    def test_slots(self) -> None:
        assert self.space().slots == ((0, "attention"), (0, "ffn"), (1, "attention"), (1, "ffn"))
