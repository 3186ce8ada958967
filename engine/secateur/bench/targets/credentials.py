"""What a client shows a server, and how it knows that the server is the right one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.errors import BadInput


@dataclass(frozen=True)
class Credentials:
    """None of it by default: an unencrypted connection without a token.

    Attributes:
        token: bearer token.
        tls: whether the connection is encrypted; implied by a `ca`.
        ca: PEM file of the authorities that sign the server's certificate; None = the system's.
        certificate, key: PEM files that the client shows, for mTLS.
    """

    token: str = ""
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for option, file in (
            ("--ca", self.ca),
            ("--client-cert", self.certificate),
            ("--client-key", self.key),
        ):
            if file is not None and not file.is_file():
                raise BadInput(option, file, "no such file")
        if (self.certificate is None) != (self.key is None):
            raise BadInput("--client-cert", self.certificate, "goes with --client-key, and only with it")

    @property
    def encrypted(self) -> bool:
        """True if the connection is to be encrypted."""
        return self.tls or self.ca is not None or self.certificate is not None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As gRPC metadata."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()
