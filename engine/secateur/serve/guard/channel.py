"""The server's end of a connection: sizes, keepalive, age, encryption."""

from __future__ import annotations

import grpc

from secateur.config.serve import KeepaliveOptions, LimitOptions, TlsOptions
from secateur.errors import BadInput
from secateur.serve.guard.tls import server_credentials


def channel_options(limits: LimitOptions, connections: KeepaliveOptions) -> list[tuple[str, int]]:
    """Return what `grpc.aio.server` takes as ``options``."""
    options = [
        # Without this two servers may share a port on Linux, each getting some of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        # Clients that wait long for a token keep the connection alive with pings; gRPC's defaults would
        # answer these with "too_many_pings" and hang up.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # The other way round: a client whose machine vanished would hold its requests for ever.
        ("grpc.keepalive_time_ms", _milliseconds(connections.keepalive)),
        ("grpc.keepalive_timeout_ms", _milliseconds(connections.keepalive_timeout)),
        # gRPC 1.85 waits this long for the answer to a ping, whatever the line above says: 60 s by default.
        ("grpc.http2.ping_timeout_ms", _milliseconds(connections.keepalive_timeout)),
    ]
    if connections.max_age is not None:
        options += [
            ("grpc.max_connection_age_ms", _milliseconds(connections.max_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(connections.max_age_grace)),
        ]
    return options


def bind_server(server: grpc.aio.Server, listen: str, tls: TlsOptions | None = None) -> str:
    """Bind and return the address with the real port.

    Raises:
        BadInput: taken, not an address of this machine, or the certificate is none.
    """
    credentials = None if tls is None else server_credentials(tls)
    try:
        if credentials is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise BadInput("listen", listen, "cannot be bound: in use, or not this machine's") from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
