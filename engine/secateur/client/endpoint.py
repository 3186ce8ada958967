"""Where a server is, and how to speak to it: encryption, credentials, deadlines, retries."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from secateur.client.retries import RetryPolicy
from secateur.errors import BadInput

MAX_MESSAGE_BYTES = 64 * 2**20
TIMEOUT_SECONDS = 600.0
LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")

File = str | os.PathLike[str]


class Unencrypted(BadInput):
    """A token would travel to another machine for all to read."""


@dataclass(frozen=True)
class Endpoint:
    """A server and how to call it.

    Attributes:
        target: ``HOST:PORT`` or ``unix:PATH``.
        tls: encrypt; implied by ``ca`` and ``cert``. Without ``ca`` the system's authorities are trusted.
        ca: PEM file of the authorities that may vouch for the server.
        cert: PEM file of the certificate that this client shows (mutual TLS).
        key: PEM file of its private key.
        token: bearer token sent with every call.
        insecure: allow a token to travel unencrypted to another machine.
        timeout: deadline of each call, in seconds, retries included.
        wait_for_ready: wait, within the deadline, for a server to start and to load the model.
        retries: how often and how fast a failed call is sent again.
    """

    target: str
    tls: bool = False
    ca: File | None = None
    cert: File | None = None
    key: File | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False
    timeout: float = TIMEOUT_SECONDS
    wait_for_ready: bool = False
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            alone = "cert" if self.key is None else "key"
            raise BadInput(alone, getattr(self, alone), "a certificate and its key go together: give both")
        if self.timeout <= 0:
            raise BadInput("timeout", self.timeout, "more than 0 seconds")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token):
            raise BadInput("token", "one with other characters", "printable ASCII, at least one character")
        if self.token and not (self.encrypted or self.insecure or self.target.startswith(LOOPBACK)):
            allowed = "would travel unencrypted to another machine: give ca, tls or insecure"
            raise Unencrypted("token", f"one for {self.target}", allowed)

    @property
    def encrypted(self) -> bool:
        """True if calls travel through TLS."""
        return self.tls or self.ca is not None or self.cert is not None

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """What is sent with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what opens an encrypted channel.

        Raises:
            BadInput: a file cannot be read, or ``ca`` holds no certificate.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read_authorities("ca", self.ca),
            private_key=_read("key", self.key),
            certificate_chain=_read("cert", self.cert),
        )

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return gRPC's options of the channel."""
        return [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # A server that vanishes without a word is noticed within a minute, not at the deadline.
            ("grpc.keepalive_time_ms", 40_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            *self.retries.channel_options(),
        ]


def _read_authorities(name: str, file: File | None) -> bytes | None:
    """Read certificates; gRPC would say of others only that no connection can be made."""
    content = _read(name, file)
    if content is not None:
        try:
            # Remarks between the certificates may be in any characters.
            text = content.decode("ascii", errors="ignore")
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise BadInput(name, file, "holds no certificate in PEM form, or a broken one") from error
    return content


def _read(name: str, file: File | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise BadInput(name, file, f"cannot be read: {error.strerror}") from error
