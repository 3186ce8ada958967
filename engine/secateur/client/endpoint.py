"""Where a server is, and how to speak to it: encryption, credentials, deadlines, retries."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from secateur.client.retries import RetryPolicy
from secateur.config.connection import TOKEN_VARIABLE, ConnectionOptions, File
from secateur.errors import BadInput

MAX_MESSAGE_BYTES = 64 * 2**20
LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")


@dataclass(frozen=True)
class Endpoint(ConnectionOptions):
    """A server and how to call it. A token file has been read: its content is the token.

    Attributes:
        retries: how often and how fast a failed call is sent again.

    Raises:
        BadInput: the options do not fit together, or the token file cannot be read.
    """

    retries: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_file is not None:
            object.__setattr__(self, "token", self._read_token(self.token_file))
            object.__setattr__(self, "token_file", None)
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token):
            raise BadInput("token", "one with other characters", "printable ASCII, at least one character")
        if self.token and not (self.encrypted or self.insecure or self.target.startswith(LOOPBACK)):
            allowed = "would travel unencrypted to another machine: give `ca`, `tls` or `insecure`"
            raise BadInput("token", f"one for {self.target}", allowed)

    def _read_token(self, file: File) -> str:
        """The token in a file; a token from the variable yields to it."""
        if self.token is not None and self.token != os.environ.get(TOKEN_VARIABLE):
            raise BadInput("token_file", file, "`token` gives a token already: give one of them")
        try:
            text = sys.stdin.read() if str(file) == "-" else Path(file).expanduser().read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not ASCII"
            raise BadInput("token_file", file, f"cannot be read: {why}") from error
        token = text.strip()
        if not (token and token.isprintable()):
            allowed = "one token in it: printable ASCII, at least one character"
            raise BadInput("token_file", file, allowed)
        return token

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
