"""What the load generator needs of a server."""

from __future__ import annotations

from typing import Protocol

from secateur.bench.load.prompt import BenchmarkRequest
from secateur.bench.load.record import StreamedResponse
from secateur.bench.models import ModelInfo
from secateur.errors import SecateurError

NOT_REACHABLE = "no server answers there"
"""What is said, as by other commands, where nobody listens."""


class RequestFailed(Exception):
    """One request got no whole answer.

    Attributes:
        code: a gRPC status name, or HTTP_503, or what the connection did.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())[:300]


class TargetUnusable(SecateurError):
    """The server cannot be measured at all: it is not there, or does not have the model."""

    exit_status = 2


class Target(Protocol):
    """A server. All methods run on one event loop.

    Attributes:
        address: as the user gave it.
        kind: what it speaks, for reports.
        takes_tokens: whether prompts may be token ids; otherwise they are text.
    """

    address: str
    kind: str
    takes_tokens: bool

    async def stream(self, model: str, request: BenchmarkRequest, answer: StreamedResponse) -> None:
        """Send a request and fill in its answer as it comes.

        Raises:
            RequestFailed: no whole answer; what came before stays in `answer`.
        """
        ...

    async def tokenize(self, model: str, text: str) -> list[int] | None:
        """Token ids of a text; None where the server does not tell.

        Raises:
            RequestFailed: it does, but not now.
        """
        ...

    async def describe(self, model: str) -> ModelInfo:
        """What the server says of a model; an empty name is its only, or default, one.

        Raises:
            RequestFailed: there is no such model, or no server.
        """
        ...

    async def close(self) -> None: ...
