"""Why a call fails: one exception, and how every other one becomes a google.rpc.Status."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from sqlalchemy.exc import InternalError, OperationalError

from secateur.errors import BadInput, SecateurError

DOMAIN = "secateur"
log = logging.getLogger(__name__)
# A status travels in trailers, for which clients have 8 KiB. Names that a client made up may be in it.
MAX_VIOLATIONS = 5
MAX_MESSAGE_BYTES, MAX_DESCRIPTION_BYTES, MAX_NAME_BYTES = 800, 400, 120


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that cannot be accepted, and what would be."""

    field: str
    description: str


@dataclass(eq=False)
class RpcError(Exception):
    """A call is not, or no longer, served.

    Attributes:
        code: a google.rpc.Code.
        reason: UPPER_SNAKE_CASE, stable, for programs.
        message: one line for people.
        violations: the fields at fault, for INVALID_ARGUMENT.
        metadata: facts for programs, such as the model's name.
        retry_seconds: when trying again makes sense; None = unsaid.
    """

    code: int
    reason: str
    message: str
    violations: Sequence[FieldViolation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def to_status(self) -> status_pb2.Status:
        """Return the wire form, with its details; what is too long for a status is cut."""
        details: list[Any] = [
            error_details_pb2.ErrorInfo(
                reason=self.reason,
                domain=DOMAIN,
                metadata={
                    name: _short(value, MAX_DESCRIPTION_BYTES) for name, value in self.metadata.items()
                },
            )
        ]
        if self.violations:
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=_short(v.field, MAX_NAME_BYTES),
                            description=_short(v.description, MAX_DESCRIPTION_BYTES),
                        )
                        for v in self.violations[:MAX_VIOLATIONS]
                    ]
                )
            )
        if self.retry_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_seconds * 1000))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            wrapped = any_pb2.Any()
            wrapped.Pack(detail)
            packed.append(wrapped)
        return status_pb2.Status(
            code=self.code, message=_short(self.message, MAX_MESSAGE_BYTES), details=packed
        )


def invalid_argument(*violations: FieldViolation) -> RpcError:
    """Return the refusal of a request with these fields at fault."""
    message = "; ".join(f"{v.field}: {v.description}" for v in violations)
    return RpcError(code_pb2.INVALID_ARGUMENT, "INVALID_FIELD", message, violations)


def violation(error: BadInput, prefix: str = "") -> FieldViolation:
    """Return what a client is told of a field that was bad input, whose path in the message begins so."""
    return FieldViolation(prefix + error.field, f"got {error.given}: {error.allowed}")


def unavailable(reason: str, message: str, retry_seconds: float | None = None) -> RpcError:
    """Return the refusal of a request that may succeed later or elsewhere."""
    return RpcError(code_pb2.UNAVAILABLE, reason, message, retry_seconds=retry_seconds)


def to_rpc_error(error: BaseException) -> RpcError:
    """Return what a client is told about an error; of a bug, only that it happened."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, DecodeError):
        return RpcError(code_pb2.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "the request is not such a message")
    if isinstance(error, BadInput):
        return invalid_argument(violation(error))
    if isinstance(error, SecateurError):
        return RpcError(code_pb2.FAILED_PRECONDITION, _reason(error), str(error))
    if isinstance(error, OperationalError | InternalError):  # a full disk, a lock, a database that is away
        log.error("the database of models and jobs fails: %s", error.orig)
        return unavailable(
            "STATE_UNAVAILABLE", f"the server's database of models and jobs fails: {error.orig}"
        )
    message = "an internal error; the server's log has it under this request's id"
    return RpcError(code_pb2.INTERNAL, "INTERNAL", message)


def _short(text: str, longest: int) -> str:
    """Return the text, without its middle if it is long."""
    if len(text.encode(errors="replace")) <= longest:
        return text
    encoded, half = text.encode(errors="replace"), longest // 2 - 2
    return f"{encoded[:half].decode(errors='ignore')} … {encoded[-half:].decode(errors='ignore')}"


def _reason(error: SecateurError) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()
