"""Nothing that people's files and callers can hold ends in a traceback, a hang, or a gigabyte.

Each target is given its valid inputs, 200 damaged ones, and what once failed. `python -m tests.fuzz TARGET`
runs as many as wanted.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.replay import GIGABYTE, failure_of, limit_memory, memory_limit
from tests.fuzz.targets import TARGETS

INPUTS = {"config": 60, "prune-job": 60, "journal": 100}  # where each takes more than 5 ms
ONCE_FAILED = [
    ("index", b'{"weight_map": {"model.norm.weight": "' + b"a" * 300 + b'"}}'),
    ("index", b'{"weight_map": ' + b"[" * 100_000),
    ("index", b'{"weight_map": {"model.norm.weight": "\\u0000"}}'),
    ("tokens", b"caller = " + b"[" * 5000),
    ("config", b"[" * 100_000),
    ("config", b'{"model_type": "llama", "num_hidden_layers": 1000000000, "layer_types": null}'),
    ("jsonl", b"[" * 100_000),
    ("journal", b"[" * 100_000 + b"\n"),
    ("jsonl", b'{"te\\nxt": 1}'),
    ("tokens", b'[[caller]]\nname = "a"\nsha256 = "00"\nscopes = ["\\n"]\n'),
    ("index", b'{"weight_map": {"model.norm.weight": "a\\nb"}}'),
]


@pytest.fixture(autouse=True)
def a_gigabyte_more() -> Iterator[None]:
    limit_memory(memory_limit() + GIGABYTE)
    yield
    limit_memory(-1)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_answered(name: str) -> None:
    target = TARGETS[name]
    for valid in target.valid:
        target.parse(valid)
    failures = {number: failure_of(target, target.input(number)) for number in range(INPUTS.get(name, 200))}
    assert {number: failure for number, failure in failures.items() if failure} == {}


@pytest.mark.parametrize(("name", "data"), ONCE_FAILED)
def test_what_once_failed(name: str, data: bytes) -> None:
    assert failure_of(TARGETS[name], data) is None
