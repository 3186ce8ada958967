"""Encryption: certificates from files, read again when they change.

Certificates are renewed every few weeks by programs that write files; a server that has to be restarted for
that is one that will one day answer with an expired one.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc

from secateur.config.serve import TlsOptions
from secateur.errors import BadInput

log = logging.getLogger(__name__)


def server_credentials(options: TlsOptions) -> grpc.ServerCredentials:
    """Return credentials that follow their files.

    Raises:
        BadInput: a file is no certificate or key, or they do not belong together.
    """
    configuration = _read(options)
    return grpc.dynamic_ssl_server_credentials(
        configuration, _changes(options), require_client_authentication=options.client_ca is not None
    )


def _read(options: TlsOptions) -> grpc.ServerCertificateConfiguration:
    check_certificates(options)
    return grpc.ssl_server_certificate_configuration(
        [(options.key.read_bytes(), options.certificate.read_bytes())],
        None if options.client_ca is None else options.client_ca.read_bytes(),
    )


def check_certificates(options: TlsOptions) -> None:
    """Prove that the files are what they should be; gRPC would only say so in its own log.

    Raises:
        BadInput: naming the option at fault.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.certificate, options.key, password=_no_password)
    except (OSError, ValueError) as error:
        reason = f"not a PEM certificate with its key in {options.key} ({_line(error)})"
        raise BadInput("tls_cert", options.certificate, reason) from error
    if options.client_ca is not None:
        try:
            context.load_verify_locations(options.client_ca)
        except (OSError, ValueError) as error:
            reason = f"not PEM certificates ({_line(error)})"
            raise BadInput("client_ca", options.client_ca, reason) from error


def _changes(options: TlsOptions) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """Return what gRPC asks before every handshake: new certificates, or None."""
    seen_stamps = _stamps(options)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen_stamps
        now = _stamps(options)
        if now == seen_stamps:
            return None
        seen_stamps = now
        try:
            configuration = _read(options)
        except (BadInput, OSError) as error:
            log.error("certificates not reloaded, the old ones stay: %s", error)
            return None
        log.info("certificates reloaded from %s", options.certificate)
        return configuration

    return changed


def _stamps(options: TlsOptions) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stamp(file) for file in (options.certificate, options.key, options.client_ca) if file)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Return what changes when the file does, also when a link to it is pointed elsewhere."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _no_password() -> str:
    raise ValueError("the key is locked with a password, and nobody is there to type it")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
