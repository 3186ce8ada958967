"""Architectures and the space of them: values that survive JSON, hash by content, and know their widths."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import BadInput
from secateur.model.architecture import KINDS, Architecture
from secateur.model.dense import DecoderModel, architecture_of
from secateur.space.space import Space

WIDTHS = st.integers(1, 12).flatmap(
    lambda layers: st.tuples(
        *(st.lists(st.integers(0, 4096), min_size=layers, max_size=layers) for _ in range(2))
    )
)
ARCHITECTURES = WIDTHS.map(lambda pair: Architecture(tuple(pair[0]), tuple(pair[1])))


class TestArchitecture:
    @given(shape=ARCHITECTURES)
    def test_json(self, shape: Architecture) -> None:
        back = Architecture.from_json(json.loads(json.dumps(shape.to_json())))
        assert back == shape and hash(back) == hash(shape) and back.digest == shape.digest

    @given(left=ARCHITECTURES, right=ARCHITECTURES)
    def test_digest_tells_apart(self, left: Architecture, right: Architecture) -> None:
        assert (left.digest == right.digest) == (left == right)

    @given(shape=ARCHITECTURES, data=st.data())
    def test_with_width(self, shape: Architecture, data: st.DataObject) -> None:
        layer = data.draw(st.integers(0, shape.num_layers - 1))
        kind = data.draw(st.sampled_from(KINDS))
        other = shape.with_width(layer, kind, 7)
        changed = [
            (index, half)
            for index in range(shape.num_layers)
            for half in KINDS
            if other.width(index, half) != shape.width(index, half)
        ]
        assert other.width(layer, kind) == 7
        assert set(changed) <= {(layer, kind)}

    def test_path_is_in_order_of_computation(self) -> None:
        assert Architecture((1, 2), (30, 40)).path == (1, 30, 2, 40)

    @pytest.mark.parametrize(
        ("groups", "channels"), [((1,), (1, 2)), ((-1, 1), (1, 1))], ids=["lengths", "negative"]
    )
    def test_nonsense(self, groups: tuple[int, ...], channels: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"widths cannot be negative|layers of groups"):
            Architecture(groups, channels)

    def test_of_a_model(self, model: DecoderModel) -> None:
        assert architecture_of(model) == Architecture((2, 2, 2), (192, 192, 192))


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
