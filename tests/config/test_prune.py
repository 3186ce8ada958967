"""Every option of prune is declared once; registries and the fields of a job agree with the declarations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.calibrate.criteria import CRITERIA
from secateur.config import prune as config
from secateur.config.option import declaration, declared
from secateur.config.proto_fields import field_of, given_in, set_fields
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given, from_json, to_json
from secateur.errors import BadInput
from secateur.search.regressors import REGRESSORS
from secateur.search.samplers.paper import FINALISTS, PAIRS
from secateur.search.samplers.registry import SAMPLERS
from secateur.space.budget import COSTS
from secateur.v1 import prune_pb2
from tests.config.disagreements import disagreements

SPEC = prune_pb2.PruneSpec.DESCRIPTOR
GIVEN: dict[str, Any] = {"model": "m", "out": "slim", "keep": "0.8"}


class TestRegistered:
    def test_names_are_those_that_are_registered(self) -> None:
        assert set(SAMPLERS) == set(config.SAMPLERS)
        assert set(config.CRITERIA) == set(CRITERIA)
        assert tuple(REGRESSORS) == config.REGRESSORS
        assert (*COSTS, config.LATENCY) == config.BUDGET_KINDS
        assert all(isinstance(getattr(torch, name), torch.dtype) for name in config.DTYPES)

    def test_evaluations_of_the_paper(self) -> None:
        assert config.PAPER_EVALUATIONS == PAIRS + FINALISTS + 1


class TestProto:
    def test_every_option_of_a_job_has_a_field_of_its_type(self) -> None:
        assert list(disagreements(SPEC, PruneOptions)) == []

    def test_every_field_is_an_option(self) -> None:
        fields = {declared_option.option.message_field for declared_option in declared(PruneOptions)}
        source = {field.name for field in SPEC.oneofs_by_name["source"].fields}
        assert {field.name for field in SPEC.fields} == (fields - {""}) | source

    def test_a_field_that_is_forgotten_is_named(self) -> None:
        found = list(disagreements(prune_pb2.PruneActivation.DESCRIPTOR, PruneOptions))
        assert "PruneActivation.max_shapes is missing: the field of the option max_shapes" in found

    def test_there_and_back(self) -> None:
        given = {
            "keep": (0.9, 0.8),
            "corpus": ("a,b.txt", "pydoc"),
            "protect": ("first:1", "last:2"),
            "patience": 0,
            "budget": {"kv": None},
        }
        spec = prune_pb2.PruneSpec()
        set_fields(spec, PruneOptions, given)
        options = from_given(PruneOptions, {"model": "m", "out": "slim", **given_in(spec, PruneOptions)})
        assert {name: getattr(options, name) for name in given} == given

    def test_fields_that_are_called_otherwise(self) -> None:
        assert field_of(PruneOptions, "corpus") == "corpora"
        assert field_of(PruneOptions, "out") is None


class TestJson:
    def test_there_and_back(self) -> None:
        limits = {"budget": "params=0.8,latency=0.7", "latency_table": "table.json", "study": "sqlite:///x#y"}
        options = from_given(PruneOptions, {"model": "m", "out": "slim", **limits})
        assert from_json(PruneOptions, to_json(options)) == options

    def test_of_a_study_made_when_lists_were_text(self) -> None:
        recorded = {
            "corpus": "a.txt,pydoc",
            "validation": None,
            "protect": "first:2,last:1",
            "patience": None,
        }
        options = from_json(PruneOptions, {**GIVEN, **recorded})
        assert options.corpus == ("a.txt", "pydoc") and options.protect == ("first:2", "last:1")
        assert options.validation == () and options.patience == declaration(PruneOptions, "patience").default

    def test_keys_that_are_not_known(self) -> None:
        assert from_json(PruneOptions, {**GIVEN, "of_another_version": 1}).keep == (0.8,)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"keep": "0.8,0.8"}, "keep"),
        ({"keep": "nan"}, "keep"),
        ({"keep": "0.8", "budget": "params=0.5"}, "keep"),
        ({"keep": None}, "keep"),
        ({"budget": "params=0.5,params=0.4", "keep": None}, "budget"),
        ({"speedup": 0.5}, "speedup"),
        ({"speedup": 1.5, "budget": "latency=0.5", "keep": None}, "speedup"),
        ({"recipe": "paper", "keep": "0.8,0.7"}, "keep"),
        ({"recipe": "paper", "evaluations": 11}, "evaluations"),
        ({"recipe": "paper", "max_shapes": 2}, "max_shapes"),
        ({"recipe": "paper", "stock": True}, "stock"),
        ({"max_shapes": 2, "stock": True}, "max_shapes"),
        ({"calibration_tokens": 2047}, "calibration_tokens"),
        ({"study": "slim"}, "study"),
        ({"keep": ""}, "keep"),
        ({"keep": "0.9,,0.8"}, "keep"),
        ({"speedup": "inf", "keep": None}, "speedup"),
    ],
)
def test_options_that_do_not_fit_each_other(given: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_given(PruneOptions, {**GIVEN, **given})
    assert caught.value.field == field


def test_every_number_has_a_range() -> None:
    for declared_option in declared(PruneOptions):
        if declared_option.type in (int, float) and declared_option.name != "calibration_tokens":
            about = declared_option.option
            assert (
                about.min_value is not None
                or about.above is not None
                or declared_option.name == "evaluations"
            )


def test_positional_options_are_named_as_arguments() -> None:
    assert declaration(PruneOptions, "model").flag == "MODEL"
    assert declaration(PruneOptions, "max_shapes").flag == "--max-shapes"
    assert from_given(PruneOptions, GIVEN).out == Path("slim")


def test_a_number_that_no_field_holds() -> None:
    with pytest.raises(BadInput, match="seed: got"):
        set_fields(prune_pb2.PruneSpec(), PruneOptions, {"seed": 10**20})


def test_a_number_is_not_rounded_into_the_range() -> None:
    with pytest.raises(BadInput, match=r"keep: got 1\.0000001: "):
        from_given(PruneOptions, {**GIVEN, "keep": "1.0000001"})
