"""Sampling parameters: defaults, ranges, and what the engine is told."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from secateur.serve.failures import RpcError
from secateur.serve.inference.messages import read_sampling
from secateur.serve.inference.sampling import RANGES, SamplingSettings, check_priority
from secateur.v1 import inference_pb2


def test_defaults() -> None:
    sampling = read_sampling(inference_pb2.SamplingParameters())
    assert sampling == SamplingSettings()
    assert (sampling.n, sampling.temperature, sampling.max_tokens) == (1, 1.0, 256)
    assert sampling.seed is None and sampling.logprobs is None and sampling.ignore_eos is False


def test_every_field_of_the_message_is_taken_over() -> None:
    names = {field.name for field in inference_pb2.SamplingParameters.DESCRIPTOR.fields}
    assert {field.name for field in fields(SamplingSettings)} == names
    assert set(SamplingSettings().for_engine(10)) == names
    given = inference_pb2.SamplingParameters(
        n=2, temperature=0.5, stop=["a", "b"], stop_token_ids=[3], seed=0, logprobs=0, ignore_eos=True
    )
    assert read_sampling(given) == SamplingSettings(
        n=2, temperature=0.5, stop=("a", "b"), stop_token_ids=(3,), seed=0, logprobs=0, ignore_eos=True
    )


def test_zero_is_not_absent() -> None:
    assert read_sampling(inference_pb2.SamplingParameters(temperature=0.0, max_tokens=0)) == SamplingSettings(
        temperature=0.0, max_tokens=0
    )


def test_cut_to_the_context() -> None:
    parameters = SamplingSettings(max_tokens=100, min_tokens=50).for_engine(room=20)
    assert (parameters["max_tokens"], parameters["min_tokens"]) == (20, 20)


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_enforced(name: str) -> None:
    allowed = RANGES[name]
    exact = isinstance(getattr(SamplingSettings(), name), float)
    edges = [edge for edge in allowed[:2] if math.isfinite(edge)]
    for value in edges[1:] if allowed.above else edges:
        SamplingSettings(**{name: value if exact else int(value)}).check(vocabulary=10)  # type: ignore[arg-type]
    outside = [edges[0] - 1, *(edge + 1 for edge in edges[1:])]
    for value in [*outside, *([math.nan] if exact else []), *(edges[:1] if allowed.above else [])]:
        with pytest.raises(RpcError, match=rf"x\.{name}: got .*, allowed is ") as refusal:
            SamplingSettings(**{name: value}).check(10, prefix="x.")  # type: ignore[arg-type]
        assert refusal.value.violations[0].field == f"x.{name}"


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        (SamplingSettings(n=2, temperature=0.0), "n: got 2, but at temperature 0"),
        (SamplingSettings(min_tokens=5, max_tokens=4), "min_tokens: got 5, more than max_tokens"),
        (SamplingSettings(stop=("a", "")), "stop: got an empty text"),
        (SamplingSettings(stop=("a",) * 17), "stop: got 17 texts, at most 16"),
        (SamplingSettings(stop_token_ids=(3, 10)), "stop_token_ids: got 10, ids go from 0 to 9"),
        (SamplingSettings(stop_token_ids=(-1,)), "stop_token_ids: got -1"),
    ],
)
def test_what_does_not_go_together_is_refused(sampling: SamplingSettings, complaint: str) -> None:
    with pytest.raises(RpcError, match=complaint):
        sampling.check(vocabulary=10)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(RpcError, match=r"temperature: got 9.*; min_p: got 7"):
        SamplingSettings(temperature=9, min_p=7).check(10)


@pytest.mark.parametrize("priority", [-101, 101])
def test_priorities_have_limits(priority: int) -> None:
    check_priority(priority // 2)
    with pytest.raises(RpcError, match=f"priority: got {priority}, allowed is -100 to 100"):
        check_priority(priority)
