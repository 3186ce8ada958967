"""Those who may call: a file of names, scopes, and how each is recognised.

[[caller]]
name = "dashboard"
scopes = ["infer"]
sha256 = "9f86d0..."             # of its bearer token, in hexadecimal
expires = 2027-01-01T00:00:00Z   # optional, like the quotas:
requests_per_minute = 600
tokens_per_minute = 100_000      # of prompts and answers
calls = 32                       # at once
priority = 0                     # the highest it may give its requests

[[caller]]
name = "operator"
scopes = ["infer", "admin"]
certificate = "ops.example.org"  # a name in its client certificate (mutual TLS)

Tokens are made by `generate_token` and have 256 random bits: a plain hash of them cannot be searched, so the
slow hashes made for passwords would only slow calls down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from google.rpc import code_pb2
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.config.schema import first_error
from secateur.errors import BadInput
from secateur.serve.failures import RpcError

TOKEN_PREFIX = "sct_"  # lets secret scanners find leaked ones


class Scope(Enum):
    """What a caller may do; ``admin`` includes ``infer``."""

    INFER = "infer"
    ADMIN = "admin"


@dataclass(frozen=True)
class Quota:
    """How much a caller may ask for; None = as much as everyone.

    Attributes:
        requests_per_minute: calls, and requests within a stream.
        tokens_per_minute: of prompts and answers.
        calls: at the same time; instead of `LimitOptions.calls_per_caller`.
        priority: the highest of its requests.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls: int | None = None
    priority: int | None = None


@dataclass(frozen=True)
class Caller:
    """Someone who calls."""

    name: str
    scopes: frozenset[Scope]
    expires: datetime | None = None
    quota: Quota = Quota()

    def may(self, scope: Scope) -> bool:
        """True if the scope is among this caller's."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def expired(self) -> bool:
        """True once the caller's time is over."""
        return self.expires is not None and datetime.now(UTC) >= self.expires


ANONYMOUS = Caller("anyone", frozenset(Scope))


class CallerRegistry:
    """All who may call.

    Args:
        by_token: the SHA-256 digest of each token, and whose it is.
        by_certificate: a name in certificates, and whose it is.
    """

    def __init__(self, by_token: Iterable[tuple[bytes, Caller]], by_certificate: dict[str, Caller]) -> None:
        self._by_token = tuple(by_token)
        self._by_certificate = by_certificate

    def __len__(self) -> int:
        return len(self._by_token) + len(self._by_certificate)

    def identify(self, authorization: str | bytes | None, identities: Iterable[str]) -> Caller:
        """Return whose token, or else whose certificate, this is.

        Args:
            authorization: value of that metadata key.
            identities: names in the client's certificate.

        Raises:
            RpcError: UNAUTHENTICATED.
        """
        if authorization is None:
            for identity in identities:
                if identity in self._by_certificate:
                    return _unexpired(self._by_certificate[identity])
            raise _unauthenticated("TOKEN_MISSING", "no bearer token in the metadata key 'authorization'")
        if not isinstance(authorization, str) or not authorization.lower().startswith("bearer "):
            raise _unauthenticated("TOKEN_MALFORMED", "'authorization' must be 'Bearer TOKEN'")
        token_digest = hashlib.sha256(authorization[len("bearer ") :].strip().encode()).digest()
        # All are compared, each in constant time: nothing can be learnt from how long it takes.
        matching_callers = [
            caller for digest, caller in self._by_token if hmac.compare_digest(digest, token_digest)
        ]
        if not matching_callers:
            raise _unauthenticated("TOKEN_UNKNOWN", "the bearer token is not known here")
        return _unexpired(matching_callers[0])


class _Entry(BaseModel):
    """One ``[[caller]]`` of the file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")
    certificate: str | None = Field(None, min_length=1)
    expires: AwareDatetime | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    calls: int | None = Field(None, ge=1)
    priority: int | None = Field(None, ge=-100, le=100)

    @model_validator(mode="after")
    def _recognisable(self) -> _Entry:
        if (self.sha256 is None) == (self.certificate is None):
            raise ValueError("give either sha256 or certificate")
        return self

    def caller(self) -> Caller:
        quota = Quota(self.requests_per_minute, self.tokens_per_minute, self.calls, self.priority)
        return Caller(self.name, self.scopes, self.expires, quota)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    caller: list[_Entry] = []


def read_callers(file: Path, field: str = "tokens") -> CallerRegistry:
    """Read the file.

    Args:
        field: the option that named it, for the error.

    Raises:
        BadInput: not such a file; names the entry and key at fault.
    """
    try:
        entries = _File.model_validate(tomllib.loads(file.read_text())).caller
    except (OSError, ValueError, RecursionError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise BadInput(field, file, reason) from error
    callers = [(entry, entry.caller()) for entry in entries]
    return CallerRegistry(
        ((bytes.fromhex(entry.sha256), caller) for entry, caller in callers if entry.sha256 is not None),
        {entry.certificate: caller for entry, caller in callers if entry.certificate is not None},
    )


def generate_token() -> str:
    """Return a token that nobody can guess."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def format_caller_entry(
    name: str, scopes: Iterable[Scope], token: str, expires: datetime | None = None
) -> str:
    """Return the lines of the file that let the holder of this token call.

    Raises:
        BadInput: the name cannot stand in the file.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
        raise BadInput("name", name, "letters, digits, '.', '_', '@' and '-', at most 64")
    listed = ", ".join(f'"{scope.value}"' for scope in sorted(set(scopes), key=lambda scope: scope.value))
    lines = [
        "[[caller]]",
        f'name = "{name}"',
        f"scopes = [{listed}]",
        f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"',
    ]
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n"


def _unexpired(caller: Caller) -> Caller:
    if caller.expired():
        raise _unauthenticated(
            "TOKEN_EXPIRED", f"the access of {caller.name} ended {caller.expires:%Y-%m-%d %H:%M} UTC"
        )
    return caller


def _unauthenticated(reason: str, message: str) -> RpcError:
    return RpcError(code_pb2.UNAUTHENTICATED, reason, message)
