"""gRPC channels, and their errors as `RequestFailed`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from secateur.bench.load.target import NOT_REACHABLE, RequestFailed
from secateur.client.endpoint import Endpoint

LOCAL_SUBCHANNEL_POOL = ("grpc.use_local_subchannel_pool", 1)
"""Not shared with whatever else this process talks to."""

MAX_RECONNECT_BACKOFF = ("grpc.max_reconnect_backoff_ms", 2000)
"""A server that was gone for a moment is found again, not after two minutes."""


def open_channel(endpoint: Endpoint) -> grpc.aio.Channel:
    """A channel to a server; nothing is sent yet."""
    options = [*endpoint.channel_options(), LOCAL_SUBCHANNEL_POOL, MAX_RECONNECT_BACKOFF]
    if endpoint.encrypted:
        return grpc.aio.secure_channel(endpoint.target, endpoint.credentials(), options)
    return grpc.aio.insecure_channel(endpoint.target, options)


@asynccontextmanager
async def translate_errors(channel: grpc.aio.Channel) -> AsyncIterator[None]:
    """Turn what gRPC raises into `RequestFailed`.

    Args:
        channel: over which the call goes.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        # A server that refuses has the same status; only then is there a connection.
        connected = channel.get_state() is grpc.ChannelConnectivity.READY
        if error.code() is grpc.StatusCode.UNAVAILABLE and not connected:
            details = f"{NOT_REACHABLE} ({details})"
        raise RequestFailed(error.code().name, details) from error
