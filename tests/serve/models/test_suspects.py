"""Requests that were there when engines died."""

from __future__ import annotations

import pytest

from secateur.serve.failures import RpcError
from secateur.serve.models.suspects import MAX_REMEMBERED, Suspects, fingerprint
from secateur.serve.models.version import ModelVersion


class Clock:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(suspects: Suspects, request: str) -> bool:
    try:
        suspects.check(lambda: request)
    except RpcError as refusal:
        assert refusal.reason == "REQUEST_SUSPECT" and refusal.retry_seconds is None
        return True
    return False


def test_refused_after_two_deaths_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    suspects = Suspects(clock)
    for request in ("poison", "neighbour"):
        suspects.left(request, f"{request} of somebody")
    suspects.engine_died()
    assert not refused(suspects, "poison")
    suspects.left("poison", "poison of somebody else")
    suspects.engine_died()
    assert refused(suspects, "poison") and not refused(suspects, "neighbour")
    assert "poison of somebody else" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelname == "ERROR"
    clock.now += 3601
    assert not refused(suspects, "poison")  # machines change; it gets another chance


def test_what_left_before_or_twice_at_once_does_not_count() -> None:
    clock = Clock()
    suspects = Suspects(clock)
    suspects.left("early", "")
    clock.now += 10
    for _ in range(2):
        suspects.left("twins", "")
    suspects.engine_died()
    suspects.engine_died()  # nobody was there
    assert not refused(suspects, "early") and not refused(suspects, "twins")


def test_it_does_not_grow() -> None:
    suspects = Suspects(Clock())
    for turn in range(3):
        for number in range(MAX_REMEMBERED):
            suspects.left(f"{turn} {number}", "")
        suspects.engine_died()
    assert len(suspects._deaths) == MAX_REMEMBERED


def test_a_request_is_its_tokens_and_parameters() -> None:
    seen = {
        fingerprint(prompts, parameters)
        for prompts in ([[1, 2, 3]], [[1, 2], [3]], [[1], [2, 3]], [[1, 2, 4]])
        for parameters in ({"seed": 1}, {"seed": 2}, {"seed": 1, "n": 2})
    }
    assert len(seen) == 12
    assert fingerprint([(1, 2)], {"a": 1, "b": 2}) == fingerprint([[1, 2]], {"b": 2, "a": 1})


def test_only_what_did_not_end_by_itself_is_suspected() -> None:
    version = ModelVersion("m")
    for _ in range(2):
        with version.request() as whole:
            whole.submit([[1, 2]], {})
            whole.begin()
            whole.complete()
        with pytest.raises(KeyError), version.request() as cut:
            cut.submit([[1, 2, 3]], {})
            cut.begin()
            raise KeyError
        with version.request() as waiting:
            waiting.submit([[1, 2]], {})  # the engine never had it
        version.suspects.engine_died()
    with version.request() as again:
        again.submit([[1, 2]], {})
        with pytest.raises(RpcError, match="died 2 times"):
            again.submit([[1, 2, 3]], {})
