"""Architectures: values that survive JSON, hash by content, and know their widths."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.model.architecture import KINDS, Architecture
from secateur.model.decoder import DecoderModel, architecture_of

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
