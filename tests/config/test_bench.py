"""Every option of bench is declared once; the fields of a request agree with the declarations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.config.bench import SLO_PRESETS, BenchOptions, parse_slo
from secateur.config.option import declared
from secateur.config.proto_fields import faults_in, given_in
from secateur.config.values import from_given, from_json, to_json
from secateur.errors import BadInput
from secateur.v1 import benchmarks_pb2 as wire
from tests.config.disagreements import disagreements

REQUEST = wire.RunBenchmarkRequest.DESCRIPTOR
BY_HAND = {"open.constant"}  # is `arrivals`


class TestProto:
    def test_every_option_of_a_request_has_a_field_of_its_type(self) -> None:
        assert list(disagreements(REQUEST, BenchOptions)) == []

    def test_every_field_is_an_option(self) -> None:
        loads = {field.name: field.message_type for field in REQUEST.oneofs_by_name["load"].fields}
        fields = {field.name for field in REQUEST.fields} - set(loads)
        fields |= {f"{load}.{field.name}" for load, message in loads.items() for field in message.fields}
        options = {declaration.option.message_field for declaration in declared(BenchOptions)} - {""}
        assert fields == options | BY_HAND

    def test_a_field_that_is_forgotten_is_named(self) -> None:
        missing = list(disagreements(wire.OpenLoad.DESCRIPTOR, BenchOptions))
        assert "OpenLoad.open.rates is missing: the field of the option rate" in missing

    def test_read(self) -> None:
        request = wire.RunBenchmarkRequest(
            model="dense", compare=["slim"], open=wire.OpenLoad(rates=[2, 4]), seconds=0, slo="ttft=1s"
        )
        assert given_in(request, BenchOptions) == {
            "model": "dense",
            "compare": ["slim"],
            "rate": [2, 4],
            "seconds": 0,
            "slo": "ttft=1s",
        }

    def test_clients_have_narrower_ranges(self) -> None:
        request = wire.RunBenchmarkRequest(seconds=3601, rounds=101, input_tokens=2**20 + 1, slo="fast")
        assert [fault.field for fault in faults_in(request, BenchOptions)] == [
            "seconds",
            "rounds",
            "input_len",
            "slo",
        ]
        assert BenchOptions(seconds=3601, rounds=101).rounds == 101


def test_json_there_and_back() -> None:
    given: dict[str, Any] = {"compare": ["slim"], "concurrency": "1,4", "slo": "ttft=500ms,tpot=50us"}
    for options in (from_given(BenchOptions, given), from_given(BenchOptions, {"ramp": "1:5"})):
        assert from_json(BenchOptions, to_json(options)) == options


def test_rounds() -> None:
    given = ({}, {"compare": ("a",)}, {"offline": (".",)}, {"offline": (".",), "rounds": 2})
    assert [from_given(BenchOptions, options).rounds for options in given] == [1, 6, 9, 2]


class TestSlo:
    def test_read(self) -> None:
        assert parse_slo("ttft=500ms,tpot=0.05s") == {"ttft": 500, "tpot": 50}
        assert parse_slo("e2el=250us") == {"e2el": 0.25}
        assert parse_slo("mlperf-llama2-70b-interactive") == {"ttft": 450, "tpot": 40}

    @pytest.mark.parametrize(
        "text", ["", "ttft", "ttft=500", "ttft=0ms", "ttft=-5ms", "itl=5ms", "ttft=1s,ttft=2s", "mlperf-gpt2"]
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(BadInput, match="slo: got"):
            parse_slo(text)

    def test_presets_have_both_limits(self) -> None:
        assert all(set(limits) == {"ttft", "tpot"} for limits in SLO_PRESETS.values())


def test_checkpoints_that_are_timed_without_a_server() -> None:
    assert BenchOptions(offline=(".", "x=/tmp")).folders["x"] == Path("/tmp")
    for folders in (("/nowhere",), ("x=/tmp", "x=.")):
        with pytest.raises(BadInput, match="offline"):
            BenchOptions(offline=folders)
