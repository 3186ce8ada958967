"""The errors a user can cause or meet. Each carries one clear line; none needs a traceback.

`SecateurError` is the base that the command line catches: it prints the message and exits with
`exit_status`; the gRPC server maps the same classes to status codes.
"""

from __future__ import annotations

from typing import Any


class SecateurError(Exception):
    """Base of every error that is reported to the user as one line."""

    exit_status = 1


class BadInput(SecateurError):
    """The user gave something that cannot work.

    Args:
        field: what was given, in the user's words (an option such as ``--keep``, or ``MODEL``).
        given: the value that was given.
        allowed: what would be accepted instead, or why this is not.
    """

    exit_status = 2

    def __init__(self, field: str, given: object, allowed: str) -> None:
        self.field = field
        self.given = given
        self.allowed = allowed
        super().__init__(f"{field}: got {given!s}: {allowed}")

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
