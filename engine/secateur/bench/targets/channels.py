"""gRPC channels, and their errors as `RequestFailed`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from secateur.bench.targets.credentials import Credentials
from secateur.bench.targets.target import RequestFailed

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    # A server that is gone for a moment should be found again soon, not after two minutes.
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A benchmark has its own connection, whatever else this process talks to.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """A channel to a server; nothing is sent yet."""
    if not credentials.encrypted:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    files = (credentials.ca, credentials.key, credentials.certificate)
    ca, key, certificate = (_read(file) for file in files)
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(ca, key, certificate), options=OPTIONS
    )


@asynccontextmanager
async def failures() -> AsyncIterator[None]:
    """Turn what gRPC raises into `RequestFailed`."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise RequestFailed(error.code().name, error.details() or "") from error


def _read(file: Path | None) -> bytes | None:
    return file.read_bytes() if file is not None else None
