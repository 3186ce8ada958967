"""What an architecture is said to cost is what the cut model has; budgets that cannot be are refused.

Proven: for random architectures of every family (property), the cost is the parameter count, and
the weight bytes, of the model that surgery makes; the smallest feasible budget in a message works.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.export import weight_bytes
from secateur.checkpoint.source import open_source
from secateur.errors import BadInput, InfeasibleBudget
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel, architecture_of
from secateur.prune.surgery import build_slim_model
from secateur.space.budget import budget_of
from secateur.space.costs.parameters import count_parameters, parameter_cost
from secateur.space.knapsack import solve
from secateur.space.space import Space


@cache
def load(folder: Path) -> DecoderModel:
    source = open_source(folder)
    return source.load_model()


def architectures(space: Space) -> st.SearchStrategy[Architecture]:
    layers = range(space.dense.num_layers)
    return st.builds(
        Architecture,
        st.tuples(*(st.sampled_from(space.widths(layer, "attention")) for layer in layers)),
        st.tuples(*(st.sampled_from(space.widths(layer, "ffn")) for layer in layers)),
    )


class TestCost:
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_is_that_of_the_cut_model(self, data: st.DataObject, tiny_model: Path) -> None:
        model = load(tiny_model)
        space = Space(architecture_of(model), 40)
        candidate = data.draw(architectures(space))
        slim = build_slim_model(BlockLibrary(model, None, torch.float32), candidate)
        assert parameter_cost(model, space).of(candidate) == count_parameters(slim).non_embedding
        memory = budget_of(model, space, {"memory": 0.9}, field="keep").limits[0].cost
        assert memory.of(candidate) == weight_bytes(slim, model.dtype)

    def test_biases_count(self, make_tiny: Callable[..., Path]) -> None:
        model = load(make_tiny("llama", attention_bias=True, mlp_bias=True))
        space = Space(architecture_of(model), 64)
        candidate = Architecture((1, 0, 2), (64, 0, 192))
        slim = build_slim_model(BlockLibrary(model, None, torch.float32), candidate)
        assert parameter_cost(model, space).of(candidate) == count_parameters(slim).non_embedding

    def test_dense_is_what_transformers_counts(self, tiny_model: Path) -> None:
        from transformers import AutoModelForCausalLM

        judge = AutoModelForCausalLM.from_pretrained(tiny_model)
        total = sum(parameter.numel() for parameter in judge.parameters())
        outside = judge.get_input_embeddings().weight.numel()
        outside *= 1 if judge.config.tie_word_embeddings else 2
        count = count_parameters(load(tiny_model))
        assert count.to_json() == {"total": total, "non_embedding": total - outside}


class TestKeep:
    @pytest.mark.parametrize("keep", [1.7, 0, -1, math.nan, math.inf, -0.0])
    def test_not_a_fraction(self, keep: float, model: DecoderModel, space: Space) -> None:
        with pytest.raises(BadInput, match=r"keep: got .*: allowed is a fraction over 0 and up to 1"):
            budget_of(model, space, {"params": keep}, field="keep")

    def test_unknown_kind(self, model: DecoderModel, space: Space) -> None:
        with pytest.raises(
            BadInput, match="budget: got time: allowed are params, total, memory, kv, latency"
        ):
            budget_of(model, space, {"time": 0.5}, field="keep")

    def test_one_keeps_everything(self, model: DecoderModel, space: Space) -> None:
        assert budget_of(model, space, {"params": 1.0}, field="keep").fits(space.dense)

    @pytest.mark.parametrize("kind", ["params", "memory"])
    @pytest.mark.parametrize("quantum", [1, 32, 77, 192])
    def test_the_smallest_feasible_one_is_named_and_works(
        self, quantum: int, kind: str, model: DecoderModel, space: Space
    ) -> None:
        narrow = Space(space.dense, quantum)
        with pytest.raises(InfeasibleBudget, match=r"keep: got 1e-05") as caught:
            budget_of(model, narrow, {kind: 1e-5}, field="keep")
        named = float(re.search(r"smallest feasible is ([\d.]+)", str(caught.value)).group(1))
        budget = budget_of(model, narrow, {kind: named}, field="keep")
        values = {slot: dict.fromkeys(narrow.widths(*slot), 0.0) for slot in narrow.slots}
        found = solve(narrow, budget, values)
        assert budget.fits(found) and found.groups[0] > 0
        with pytest.raises(InfeasibleBudget):
            budget_of(model, narrow, {kind: named - 2e-4}, field="keep")
