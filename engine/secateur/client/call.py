"""A call as a value: what is sent where, and how the answer is read. Sending it is a connection's work.

Each part of the API is written once, as functions that return calls. Its synchronous and asynchronous
surfaces are made of these functions, one line per method::

    def get_model(name: str) -> Call[Model]:
        \"\"\"Return one model.\"\"\"
        request = GetModelRequest(name=name)
        return Call("secateur.v1.ModelService.GetModel", request, lambda answer: answer.model)

    class Models(Surface):
        get = now(get_model)

    class AsyncModels(AsyncSurface):
        get = later(get_model)
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


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


class SyncTransport(Protocol):
    """What a synchronous surface needs of a connection; every method raises `CallFailed`."""

    def run(self, call: RpcCall[T]) -> T:
        """Return the answer of a unary method."""

    def run_pages(self, call: RpcCall[list[T]]) -> list[T]:
        """Return the answers of a List method, of all pages from the request's on."""

    def stream(self, call: RpcCall[T]) -> Iterator[T]:
        """Yield the answers of a streaming method; closing the iterator cancels the call."""


class AsyncTransport(Protocol):
    """The same for an asynchronous surface."""

    async def run(self, call: RpcCall[T]) -> T:
        """Return the answer of a unary method."""

    async def run_pages(self, call: RpcCall[list[T]]) -> list[T]:
        """Return the answers of a List method, of all pages from the request's on."""

    def stream(self, call: RpcCall[T]) -> AsyncGenerator[T, None]:
        """Yield the answers of a streaming method; closing the iterator cancels the call."""


class SyncStub:
    """Synchronous methods over a connection."""

    def __init__(self, connection: SyncTransport) -> None:
        self._connection = connection


class AsyncStub:
    """Asynchronous methods over a connection."""

    def __init__(self, connection: AsyncTransport) -> None:
        self._connection = connection


def sync_unary(build: Callable[P, RpcCall[T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a synchronous method of a function that returns a unary call."""

    @functools.wraps(build)
    def method(self: SyncStub, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._connection.run(build(*args, **kwargs))

    return method


def sync_paged(build: Callable[P, RpcCall[list[T]]]) -> Callable[Concatenate[Any, P], list[T]]:
    """Make a synchronous method of a function that returns the call of a List method."""

    @functools.wraps(build)
    def method(self: SyncStub, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return self._connection.run_pages(build(*args, **kwargs))

    return method


def sync_stream(build: Callable[P, RpcCall[T]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Make a synchronous method of a function that returns the call of a streaming method."""

    @functools.wraps(build)
    def method(self: SyncStub, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._connection.stream(build(*args, **kwargs))

    return method


def async_unary(build: Callable[P, RpcCall[T]]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    """Make an asynchronous method of a function that returns a unary call."""

    @functools.wraps(build)
    async def method(self: AsyncStub, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._connection.run(build(*args, **kwargs))

    return method


def async_paged(build: Callable[P, RpcCall[list[T]]]) -> Callable[Concatenate[Any, P], Awaitable[list[T]]]:
    """Make an asynchronous method of a function that returns the call of a List method."""

    @functools.wraps(build)
    async def method(self: AsyncStub, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return await self._connection.run_pages(build(*args, **kwargs))

    return method


def async_stream(build: Callable[P, RpcCall[T]]) -> Callable[Concatenate[Any, P], AsyncGenerator[T, None]]:
    """Make an asynchronous method of a function that returns the call of a streaming method."""

    @functools.wraps(build)
    def method(self: AsyncStub, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        return self._connection.stream(build(*args, **kwargs))

    return method
