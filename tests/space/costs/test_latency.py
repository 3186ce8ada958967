"""A latency table as a cost: what was measured is kept, between it is interpolated, more is never faster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.errors import BadInput
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.space.budget import budget_of
from secateur.space.costs.latency import LatencyConditions, LatencyTable, ModelShape, model_shape, read_table
from secateur.space.space import Space

SHAPE = ModelShape("llama", 2, 64, 32, 2, 2, 96, 300)
TABLE = LatencyTable(
    LatencyConditions("a processor", "an engine 1.0", "bfloat16", 8, 256, SHAPE),
    1000,
    {"attention": {0: 0, 1: 40, 2: 30}, "ffn": {0: 0, 32: 10, 96: 90}},
)
SPACE = Space(Architecture((2, 2), (96, 96)), 32)


def test_cost() -> None:
    cost = TABLE.cost(SPACE)
    assert cost.table[1, "ffn"] == {0: 0, 32: 10, 64: 50, 96: 90}
    assert cost.table[1, "attention"] == {0: 0, 1: 40, 2: 40}  # noise: two groups are not faster than one
    assert cost.of(SPACE.dense) == 1000 + 2 * (40 + 90)


def test_file_and_back(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(TABLE.to_json()))
    assert read_table(file) == TABLE


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"conditions": {}}', "not json"])
def test_a_file_that_is_no_table(tmp_path: Path, content: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=r"latency_table: got .* is not a latency table"):
        read_table(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"latency_table: got .*nothing.json: No such file"):
        read_table(tmp_path / "nothing.json")


def test_another_model() -> None:
    with pytest.raises(BadInput, match="latency_table: got ffn: measured for a model of another width"):
        TABLE.cost(Space(Architecture((2, 2), (128, 128)), 32))


def test_a_budget_of_time(model: DecoderModel, space: Space) -> None:
    shape = model_shape(model)
    rows = {"attention": {0: 0, shape.groups: 300}, "ffn": {0: 0, shape.channels: 700}}
    table = LatencyTable(LatencyConditions("", "", "", 1, 256, shape), 500, rows)
    budget = budget_of(model, space, {"latency": 1 / 1.3}, table)
    (limit,) = budget.limits
    assert limit.cost.of(space.dense) == 500 + shape.layers * 1000
    assert limit.max_value == int(limit.cost.of(space.dense) / 1.3)
    with pytest.raises(BadInput, match=r"budget: got latency=0.1: the smallest feasible is .* a speed-up of"):
        budget_of(model, space, {"latency": 0.1}, table)


def test_a_budget_of_time_without_a_table(model: DecoderModel, space: Space) -> None:
    with pytest.raises(BadInput, match="budget: got latency: needs a table"):
        budget_of(model, space, {"latency": 0.8})
