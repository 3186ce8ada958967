"""Deadlines that leave no time for an answer."""

from __future__ import annotations

import grpc
from google.rpc import code_pb2

from secateur.serve.failures import RpcError

MIN_SECONDS = 0.005
"""Less than any engine needs for a first token."""


def check_deadline(context: grpc.aio.ServicerContext) -> None:
    """Refuse a call whose deadline has passed or will have before an answer can reach the client.

    Raises:
        RpcError: DEADLINE_EXCEEDED. A client usually notices by itself at the same time; the point is
            that no engine works for it.
    """
    remaining = context.time_remaining()
    if remaining is not None and remaining < MIN_SECONDS:
        raise RpcError(
            code_pb2.DEADLINE_EXCEEDED,
            "DEADLINE_TOO_SHORT",
            f"{max(0.0, remaining) * 1e3:.1f} ms are left until the deadline, "
            f"at least {MIN_SECONDS * 1e3:g} ms are needed",
        )
