"""Errors in the words of an edge."""

from __future__ import annotations

import grpc
import pytest

from secateur.client.failures import CallFailed
from secateur.errors import BadInput, SecateurError


class Refused(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.NOT_FOUND

    def details(self) -> str:
        return "no model `keep`"

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x00", "\x85", "\u2028", "\u202e", "\ud800"])
def test_whatever_is_quoted_an_error_is_one_line_of_text(character: str) -> None:
    error = BadInput("keep", f"0{character}8", f"has the key a{character}b")
    named = error.with_names(lambda field: None)
    for line in (str(error), str(named)):
        assert len(line.splitlines()) == 1 and character not in line
        assert line.isprintable() and repr(character)[1:-1] in line
    assert error.given == f"0{character}8"


@pytest.mark.parametrize(
    "error",
    [
        CallFailed("localhost:1", Refused()),
        BadInput("keep", 2, "at most 1"),
        SecateurError("`keep` is missing"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_can_be_named(error: SecateurError) -> None:
    """Whatever its constructor takes: it stays what it is, and only its words change."""
    named = error.with_names(lambda field: "--keep" if field == "keep" else None)
    assert type(named) is type(error) and named.exit_status == error.exit_status
    assert "--keep" in str(named) and "--keep" not in str(error)
    assert vars(named).keys() == vars(error).keys()
