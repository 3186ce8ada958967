"""What `secateur serve` can refuse before transformers is imported, which takes seconds."""

from __future__ import annotations

import socket
from contextlib import closing, suppress

from secateur.checkpoint.source import check_location
from secateur.config.address import host_of
from secateur.config.serve import ServeOptions
from secateur.errors import BadInput, UnsupportedModel
from secateur.serve.guard.callers import read_callers
from secateur.serve.guard.tls import check_certificates
from secateur.serve.state import check_state_url


def check_before_start(options: ServeOptions) -> None:
    """Check files, addresses and the kind of database.

    Raises:
        BadInput, BrokenCheckpoint: one of them cannot be used.
    """
    if options.tls is not None:
        check_certificates(options.tls)
    if options.tokens is not None:
        read_callers(options.tokens)
    check_state_url(options.state_url)
    for field, address in (("listen", options.listen), ("metrics", options.observe.metrics)):
        if address is not None and not address.startswith("unix:"):
            _check_free(field, address)
    for folder in options.models.values():
        with suppress(UnsupportedModel):  # cannot be pruned, but vLLM may well be able to run it
            check_location(folder)


def _check_free(field: str, address: str) -> None:
    """Bind to it for an instant, as the server will."""
    port = int(address.rpartition(":")[2])
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(
            host_of(address), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with closing(socket.socket(family, kind, protocol)) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(place)
    except OSError as error:
        raise BadInput(field, address, "cannot be bound: in use, or not this machine's") from error
