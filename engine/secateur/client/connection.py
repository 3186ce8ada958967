"""A connection to a server, and why a call over it failed."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_status import rpc_status

from secateur.errors import SecateurError

MAX_MESSAGE_BYTES = 64 * 2**20
TIMEOUT_SECONDS = 600.0
# Statuses that the user can do something about: another request, or starting the server.
USER_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
}


class CallFailed(SecateurError):
    """The server answered with an error, or there is none.

    Attributes:
        code: the gRPC status code.
        details: the messages of its google.rpc.Status.
    """

    def __init__(self, target: str, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        status = rpc_status.from_call(error)
        self.details = list(status.details) if status else []
        self.exit_status = 2 if self.code in USER_ERRORS else 1
        message = " ".join((error.details() or "").split())
        if self.code is grpc.StatusCode.UNAVAILABLE and status is None:
            message = f"no server answers there ({message[:200]})"
        super().__init__(f"{target}: {self.code.name}: {message}")


class Connection:
    """A channel and the deadline of the calls over it; every call raises `CallFailed` when it fails.

    Args:
        target: ``HOST:PORT`` or ``unix:PATH``.
        timeout: deadline of each call, in seconds.
    """

    def __init__(self, target: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self.target = target
        self.timeout = timeout
        self.channel = grpc.insecure_channel(
            target, options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        )

    def close(self) -> None:
        """Hang up; calls in flight are cancelled."""
        self.channel.close()

    def call(self, method: Any, request: Any) -> Any:
        """Return the answer of a unary method."""
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise CallFailed(self.target, error) from error
