"""The errors a user can cause or meet. Each carries one clear line; none needs a traceback.

`SecateurError` is the base that the command line catches: it prints the message and exits with
`exit_status`; the gRPC server maps the same classes to status codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

_QUOTED = re.compile(r"`([a-z0-9_.]+)`")
# Characters that end a line, move the cursor, turn the direction of text round, or cannot be encoded.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Naming = Callable[[str], str | None]
"""What an edge calls a field: a flag, or the path of a message's field; None if it has no such field."""


class SecateurError(Exception):
    """Base of every error that is reported to the user as one line.

    Its text names fields of options in backquotes: the command line shows them as flags, the server as
    fields of a request.
    """

    exit_status = 1

    def __str__(self) -> str:
        """The text in one line, whatever the files and requests hold that it quotes."""
        return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], super().__str__())

    def with_names(self, naming: Naming) -> Self:
        """The same error in the words of an edge."""
        # Not copy.copy, which calls __init__ with ``args``: errors take other arguments than their text.
        renamed = type(self).__new__(type(self))
        renamed.__dict__.update(self.__dict__)
        renamed.args = tuple(
            with_field_names(arg, naming) if isinstance(arg, str) else arg for arg in self.args
        )
        return renamed


class BadInput(SecateurError):
    """The user gave something that cannot work.

    Args:
        field: the option at fault, by its name (``keep``, ``latency_table``).
        given: the value that was given.
        allowed: what would be accepted instead, or why this is not; other options in backquotes.
    """

    exit_status = 2

    def __init__(self, field: str, given: object, allowed: str) -> None:
        self.field = field
        self.given = given
        self.allowed = allowed
        super().__init__(f"{field}: got {given!s}: {allowed}")

    def with_names(self, naming: Naming) -> Self:
        """The same error, its field and those in its text in the words of an edge."""
        renamed = super().with_names(naming)
        renamed.field = naming(self.field) or self.field
        renamed.allowed = with_field_names(self.allowed, naming)
        renamed.args = (f"{renamed.field}: got {self.given!s}: {renamed.allowed}",)
        return renamed

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its parts: workers send their errors to the process that asked."""
        return type(self), (self.field, self.given, self.allowed), self.__dict__


class InfeasibleBudget(BadInput):
    """No architecture of the space fits the budget; says the smallest feasible one."""


class UnsupportedModel(BadInput):
    """The model's architecture, or a variant of it, is not one that can be pruned or loaded."""


class BrokenCheckpoint(BadInput):
    """A checkpoint without weights, truncated, or whose parts do not match."""


class StudyMismatch(BadInput):
    """The study on disk was made for another model, corpus, seed or space."""


class BackendUnavailable(SecateurError):
    """A library or device that the request needs is not there; says how to get it."""

    exit_status = 2


class OutputFailed(SecateurError):
    """Writing the result failed (disk full, permission); nothing half-written is left."""

    exit_status = 2


def with_field_names(text: str, naming: Naming) -> str:
    """A text with the fields in backquotes in the words of an edge; others stay as they are."""
    return _QUOTED.sub(lambda match: naming(match[1]) or match[0], text)
