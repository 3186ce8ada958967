"""Which class speaks to an address."""

from __future__ import annotations

import re

from secateur.bench.targets.credentials import Credentials
from secateur.bench.targets.target import Target
from secateur.errors import BadInput

FORMS = "HOST:PORT (secateur), oip://HOST:PORT (Open Inference Protocol) or http://HOST:PORT (OpenAI)"
_HOST = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):(\d{1,5})")


def check_address(option: str, address: str) -> None:
    """Refuse what no target can have.

    Raises:
        BadInput: says which forms there are.
    """
    if address.startswith(("http://", "https://")):
        if len(address.partition("://")[2].strip("/")) > 0 and " " not in address:
            return
    elif address.startswith("unix:") and len(address) > len("unix:"):
        return
    elif (found := _HOST.fullmatch(address.removeprefix("oip://"))) and 0 < int(found[2]) < 65536:
        return
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
