"""The call being answered: known to whatever runs on its behalf, logs and traces among it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from secateur.serve.guard.callers import ANONYMOUS, Caller

REQUEST_ID = "x-request-id"
LATENCY = 0.1  # seconds that a request may have been on its way
# What clients send goes into logs and comes back in trailers: nothing but what is harmless there.
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass
class CallContext:
    """One RPC.

    Attributes:
        method: its path, ``/package.Service/Method``.
        request_id: the client's ``x-request-id`` if acceptable, else made here.
        is_registered: whether the server has such a method.
        metadata: what the client sent; of a key sent twice the last.
        peer: where it comes from, as gRPC names it.
        identities: names in the client's certificate; none without mutual TLS.
        deadline: when the client stops waiting, by the monotonic clock; None = never.
        caller: who it is; set once that is known.
        admit: counts one more request of a stream; raises `RpcError` beyond the caller's quota.
        spend: counts tokens of the caller's.
        code: name of the status it ended with; set before the observers are left.
        failure: what the client was told if it failed.
    """

    method: str
    request_id: str
    is_registered: bool = True
    metadata: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)
    peer: str = ""
    identities: frozenset[str] = frozenset()
    deadline: float | None = None
    caller: Caller = ANONYMOUS
    admit: Callable[[], None] = field(default=lambda: None, repr=False)
    spend: Callable[[int], None] = field(default=lambda tokens: None, repr=False)
    code: str = "OK"
    failure: str = ""

    @property
    def principal(self) -> str:
        """Whose call it is, where callers are told apart; the address without port of one without a name."""
        if self.caller != ANONYMOUS:
            return self.caller.name
        return self.peer.rpartition(":")[0] if self.peer.startswith("ipv") else self.peer

    @property
    def deadline_exceeded(self) -> bool:
        """True once the client has stopped waiting: its clock began to run before ours."""
        return self.deadline is not None and time.monotonic() >= self.deadline - LATENCY

    @property
    def service(self) -> str:
        """Full name of the service."""
        return self.method[1:].rpartition("/")[0]

    @property
    def name(self) -> str:
        """Name of the method within its service."""
        return self.method.rpartition("/")[2]


_current: ContextVar[CallContext | None] = ContextVar("call", default=None)


def current_call() -> CallContext | None:
    """Return the call that the running task answers, if it answers one."""
    return _current.get()


def current_principal() -> str:
    """Return whose call the running task answers; empty if it answers none."""
    call = _current.get()
    return "" if call is None else call.principal


def set_current_call(call: CallContext) -> None:
    """Make this the call of the running task, and of those that it starts."""
    _current.set(call)


def request_id(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """Return the id that the client gave its call, or a new one."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and ACCEPTABLE_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
