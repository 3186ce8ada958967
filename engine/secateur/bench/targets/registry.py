"""Which class speaks to an address."""

from __future__ import annotations

import re
from dataclasses import replace

from secateur.bench.load.target import Target
from secateur.client.endpoint import Endpoint
from secateur.client.retries import RetryPolicy
from secateur.errors import BadInput

FORMS = "HOST:PORT (secateur), oip://HOST:PORT (Open Inference Protocol) or http://HOST:PORT (OpenAI)"
_FORMS = (
    re.compile(r"https?://[^\s/]+(/\S*)?"),
    re.compile(r"unix:\S+"),
    re.compile(r"(oip://)?(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}"),
)


def check_address(option: str, address: str) -> None:
    """Refuse what no target can have.

    Raises:
        BadInput: says which forms there are.
    """
    if not any(form.fullmatch(address) for form in _FORMS):
        raise BadInput(option, address, FORMS)


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
        address: in one of the forms of `check_address`.
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
