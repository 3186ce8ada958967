"""Addresses that a server listens on."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

from secateur.errors import BadInput


def check_address(field: str, address: str, consent: bool, unix: bool = True) -> None:
    """Refuse what is no address, and (without consent) one that other machines can reach.

    Args:
        field: the option that gave the address.
        address: ``HOST:PORT`` or, where `unix` allows, ``unix:PATH``.
        consent: connections are encrypted, or the user knows that they are not.
        unix: whether a socket in the file system will do.

    Raises:
        BadInput: naming the field.
    """
    if unix and address.startswith("unix:"):
        return
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(field, address, f"HOST:PORT, for example 127.0.0.1:50051{', or unix:PATH' * unix}")
    if not consent and not is_local(address):
        allowed = (
            "reachable from other machines without encryption: add `tls_cert` and `tls_key`, or `insecure`"
        )
        raise BadInput(field, address, allowed)


def is_local(address: str) -> bool:
    """True if no other machine can reach it."""
    host = host_of(address)
    if address.startswith("unix:") or host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def host_of(address: str) -> str:
    """The host of ``HOST:PORT``, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")
