"""A call as a value: what is sent where, and how the answer is read. Sending it is a connection's work.

Each part of the API is written once, as functions that return calls. Its synchronous and asynchronous
surfaces are made of these functions, one line per method::

    def get_model(name: str) -> RpcCall[Model]:
        \"\"\"Return one model.\"\"\"
        request = GetModelRequest(name=name)
        return RpcCall("secateur.v1.ModelService.GetModel", request, lambda answer: answer.model)

    class ModelsClient(SyncStub):
        get = sync_unary(get_model)

    class AsyncModelsClient(AsyncStub):
        get = async_unary(get_model)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def identity(answer: Any) -> Any:
    return answer


@dataclass(frozen=True)
class RpcCall(Generic[T]):
    """One request of one method.

    Attributes:
        method: its full name, ``PACKAGE.SERVICE.METHOD``.
        request: the message sent.
        read: makes a value of each message that comes back.
        timeout: deadline in seconds; None = the connection's.
    """

    method: str
    request: Any
    read: Callable[[Any], T] = identity
    timeout: float | None = None
