"""Which class speaks to an address."""

from __future__ import annotations

from dataclasses import replace

from secateur.bench.load.target import Target
from secateur.client.endpoint import Endpoint
from secateur.client.retries import RetryPolicy


def endpoint_of(address: str, access: Endpoint) -> Endpoint:
    """How to call the server at an address, given how servers are called; a benchmark never sends twice."""
    scheme, separator, rest = address.partition("://")
    host = rest.partition("/")[0] if separator else address
    tls = access.tls or scheme == "https"
    return replace(access, target=host, tls=tls, retries=RetryPolicy(attempts=1), wait_for_ready=False)


def open_target(address: str, access: Endpoint) -> Target:
    """The target at an address; nothing is sent yet.

    Must be called on the event loop that will use it.

    Args:
        address: HOST:PORT, oip://HOST:PORT or http://HOST:PORT.
        access: how servers are called; its own target does not matter.

    Raises:
        BadInput: a token would travel unencrypted.
    """
    endpoint = endpoint_of(address, access)
    if address.startswith(("http://", "https://")):
        from secateur.bench.targets.openai import OpenAITarget

        return OpenAITarget(address, endpoint)
    if address.startswith("oip://"):
        from secateur.bench.targets.open_inference import OpenInferenceTarget

        return OpenInferenceTarget(endpoint)
    from secateur.bench.targets.secateur import SecateurTarget

    return SecateurTarget(endpoint)
