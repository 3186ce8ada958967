"""Which class speaks to an address."""

from __future__ import annotations

import re

from secateur.bench.targets.credentials import Credentials
from secateur.bench.targets.target import Target
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


def open_target(address: str, timeout: float, credentials: Credentials) -> Target:
    """The target at an address; nothing is sent yet.

    Must be called on the event loop that will use it.
    """
    if address.startswith(("http://", "https://")):
        from secateur.bench.targets.openai import OpenAITarget

        return OpenAITarget(address, timeout, credentials)
    if address.startswith("oip://"):
        from secateur.bench.targets.open_inference import OpenInferenceTarget

        return OpenInferenceTarget(address.removeprefix("oip://"), timeout, credentials)
    from secateur.bench.targets.secateur import SecateurTarget

    return SecateurTarget(address, timeout, credentials)
