"""Requests that an engine may have died of: one that was there at two deaths is refused.

A request is known by its content, whoever sends it. One that its client left a moment before the death was
there too.
"""

from __future__ import annotations

import hashlib
import logging
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.rpc import code_pb2

from secateur.serve.failures import RpcError

MAX_DEATHS = 2
REMEMBERED_SECONDS = 3600.0
# From an engine's end until we know of it, with room to spare.
NOTICE_SECONDS = 5.0
MAX_REMEMBERED = 4096
log = logging.getLogger(__name__)


def fingerprint(prompts: Sequence[Sequence[int]], parameters: Mapping[str, Any]) -> str:
    """Return the hash of token ids and sampling parameters, in hexadecimal."""
    digest = hashlib.blake2b(repr(sorted(parameters.items())).encode(), digest_size=16)
    for token_ids in prompts:
        digest.update(array("q", [len(token_ids), *token_ids]).tobytes())
    return digest.hexdigest()


class Suspects:
    """What one version of a model knows of them.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: deque[tuple[float, str, str]] = deque(maxlen=MAX_REMEMBERED)
        self._deaths: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, request: Callable[[], str]) -> None:
        """Refuse a request that was there at two deaths.

        Args:
            request: makes its fingerprint, which is asked for only if there are suspects at all.

        Raises:
            RpcError: FAILED_PRECONDITION.
        """
        if not self._deaths:
            return
        deaths, since = self._deaths.get(request(), (0, 0.0))
        if deaths >= MAX_DEATHS and self._clock() < since + REMEMBERED_SECONDS:
            message = f"the model's engine died {deaths} times while it computed this very request"
            raise RpcError(code_pb2.FAILED_PRECONDITION, "REQUEST_SUSPECT", message)

    def left(self, request: str, description: str) -> None:
        """Note that a request went before it was complete.

        Args:
            request: its fingerprint.
            description: what the log says of it.
        """
        self._left.append((self._clock(), request, description))

    def engine_died(self) -> None:
        """Count a death for every request that went in the last moments, once for equal ones."""
        now = self._clock()
        present = {
            request: description for at, request, description in self._left if at >= now - NOTICE_SECONDS
        }
        self._left.clear()
        for request, description in present.items():
            deaths, since = self._deaths.pop(request, (0, now))
            deaths = deaths + 1 if now < since + REMEMBERED_SECONDS else 1
            self._deaths[request] = deaths, now
            if deaths >= MAX_DEATHS:
                log.error("an engine died %d times of this request, refused now: %s", deaths, description)
            else:
                log.warning("an engine died, perhaps of this request: %s", description)
        while len(self._deaths) > MAX_REMEMBERED:
            self._deaths.popitem(last=False)
