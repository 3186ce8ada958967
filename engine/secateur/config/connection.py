"""Where a server is and how to call it: the options that all commands which talk to one share."""

from __future__ import annotations

import os
from dataclasses import dataclass

from secateur.config.option import check, option
from secateur.errors import BadInput

SERVER = "Server"
DEFAULT_TARGET = "127.0.0.1:50051"
TARGET_VARIABLE, TOKEN_VARIABLE = "SECATEUR_TARGET", "SECATEUR_TOKEN"
TIMEOUT_SECONDS = 600.0

File = str | os.PathLike[str]


@dataclass(frozen=True)
class ConnectionOptions:
    """A server and how to call it.

    Attributes:
        tls: implied by ``ca`` and ``cert``.
        token: sent with every call.
        timeout: of each call, in seconds, retries included.
        wait_for_ready: wait, within the timeout, for a server to start and to load the model.
    """

    target: str = option(
        DEFAULT_TARGET,
        help="Address of the server: HOST:PORT or unix:PATH.",
        group=SERVER,
        envvar=TARGET_VARIABLE,
    )
    tls: bool = option(False, help="Use TLS with the system's certificate authorities.", group=SERVER)
    ca: File | None = option(
        None,
        help="Use TLS with the certificate authorities in this PEM file.",
        group=SERVER,
        flag="tls-ca",
        metavar="FILE",
    )
    cert: File | None = option(
        None,
        help="Client certificate (PEM), for mutual TLS.",
        group=SERVER,
        flag="tls-cert",
        metavar="FILE",
    )
    key: File | None = option(
        None, help="Private key of `cert` (PEM).", group=SERVER, flag="tls-key", metavar="FILE"
    )
    token: str | None = option(
        None,
        help="Bearer token. Other users can see command lines: prefer the variable or a file.",
        group=SERVER,
        envvar=TOKEN_VARIABLE,
        secret=True,
    )
    token_file: File | None = option(
        None, help="File with the bearer token; - is stdin.", group=SERVER, metavar="FILE"
    )
    insecure: bool = option(
        False, help="Allow sending the token unencrypted to another machine.", group=SERVER
    )
    wait_for_ready: bool = option(
        False, help="Wait until the server is up and has loaded the model.", group=SERVER, flag="wait"
    )
    timeout: float = option(
        TIMEOUT_SECONDS,
        help="Give up after this many seconds.",
        group=SERVER,
        above=0,
        allowed="more than 0 seconds",
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.cert is None) != (self.key is None):
            alone = "cert" if self.key is None else "key"
            raise BadInput(alone, getattr(self, alone), "a certificate and its key go together: give both")
