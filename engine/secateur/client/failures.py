"""Why a call failed, and when it may be tried again."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from secateur.errors import SecateurError

# Statuses that the user can do something about: another request, other credentials, or starting the server.
USER_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
}


class CallFailed(SecateurError):
    """The server answered with an error, or there is none.

    Attributes:
        code: the gRPC status code.
        details: the messages of its google.rpc.Status.
        reason: the ErrorInfo's, UPPER_SNAKE_CASE; "" if it has none.
        retry_seconds: when the server says that trying again makes sense; None = it does not say.
    """

    def __init__(self, target: str, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        status = rpc_status.from_call(error)
        self.details = list(status.details) if status else []
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        self.reason = info.reason if self._unpacked(info) else ""
        self.retry_seconds = retry.retry_delay.ToMilliseconds() / 1e3 if self._unpacked(retry) else None
        self.exit_status = 2 if self.code in USER_ERRORS else 1
        message = " ".join((error.details() or "").split())
        if self.code is grpc.StatusCode.UNAVAILABLE and status is None:
            message = f"no server answers there ({message[:200]}); is secateur serve running?"
        super().__init__(f"{target}: {self.code.name}: {message}")

    def _unpacked(self, message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> bool:
        return any(detail.Unpack(message) for detail in self.details)
