"""A connection to a server: it sends calls, again where that is safe and useful."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from secateur.client.call import RpcCall
from secateur.client.endpoint import Endpoint
from secateur.client.failures import CallFailed
from secateur.client.retries import RetryState

T = TypeVar("T")
P = ParamSpec("P")


class BaseConnection:
    """What both kinds of connection share: an endpoint, a channel to it, and its methods."""

    channel: Any

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._methods: dict[str, Callable[..., Any]] = {}

    @property
    def target(self) -> str:
        return self.endpoint.target

    def _open(self, grpc_: Any) -> Any:
        """Return a channel of ``grpc`` or ``grpc.aio``."""
        options = self.endpoint.channel_options()
        if self.endpoint.encrypted:
            return grpc_.secure_channel(self.target, self.endpoint.credentials(), options)
        return grpc_.insecure_channel(self.target, options)

    def _send(self, call: RpcCall[Any], request: Any, seconds: float) -> Any:
        if call.method not in self._methods:
            self._methods[call.method] = _method_of(self.channel, call.method)
        return self._methods[call.method](request, timeout=seconds, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"metadata": self.endpoint.metadata, "wait_for_ready": self.endpoint.wait_for_ready or None}

    def _attempts(self, call: RpcCall[Any]) -> RetryState:
        timeout = self.endpoint.timeout if call.timeout is None else call.timeout
        return RetryState(self.endpoint.retries, call.method, timeout, self.endpoint.wait_for_ready)

    def _wait_after(self, error: grpc.RpcError, attempts: RetryState, delivered: bool = False) -> float:
        """Return how long to wait before the next attempt; raise `CallFailed` if there is to be none."""
        failure = CallFailed(self.target, error)
        wait = None if delivered else attempts.wait_after(failure)
        if wait is None:
            raise failure from error
        return wait


class Connection(BaseConnection):
    """A channel; every method raises `CallFailed` when its call does."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.channel = self._open(grpc)

    def close(self) -> None:
        """Hang up; calls in flight are cancelled."""
        self.channel.close()

    def run(self, call: RpcCall[T]) -> T:
        """Return the answer of a unary method."""
        return call.read(self._unary(call, call.request))

    def run_pages(self, call: RpcCall[list[T]]) -> list[T]:
        """Return the answers of a List method, of all pages from the request's on."""
        items: list[T] = []
        request: Any = call.request
        while request is not None:
            page = self._unary(call, request)
            items.extend(call.read(page))
            request = next_page_request(request, page)
        return items

    def stream(self, call: RpcCall[T]) -> Iterator[T]:
        """Yield the answers of a streaming method; closing the iterator cancels the call."""
        attempts, delivered = self._attempts(call), False
        while True:
            answers = self._send(call, call.request, attempts.seconds_left())
            try:
                for answer in answers:
                    delivered = True
                    yield call.read(answer)
                return
            except grpc.RpcError as error:
                wait = self._wait_after(error, attempts, delivered)
            finally:
                answers.cancel()
            time.sleep(wait)

    def call(self, method: Any, request: Any) -> Any:
        """Return the answer of a unary method of a generated stub; `run` is better: it retries."""
        try:
            return method(request, timeout=self.endpoint.timeout, **self._options())
        except grpc.RpcError as error:
            raise CallFailed(self.target, error) from error

    def _unary(self, call: RpcCall[Any], request: Any) -> Any:
        attempts = self._attempts(call)
        while True:
            try:
                return self._send(call, request, attempts.seconds_left())
            except grpc.RpcError as error:
                wait = self._wait_after(error, attempts)
            time.sleep(wait)


class SyncStub:
    """Synchronous methods over a connection."""

    def __init__(self, connection: Connection) -> None:
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


def next_page_request(request: Any, page: Any) -> Any:
    """Return the request of the page after this one, or None if it was the last."""
    if not page.next_page_token:
        return None
    following = type(request)()
    following.CopyFrom(request)
    following.page_token = page.next_page_token
    return following


def _method_of(channel: Any, name: str) -> Callable[..., Any]:
    """Return a method of a channel, of either kind, by its full name ``PACKAGE.SERVICE.METHOD``."""
    method = descriptor_pool.Default().FindMethodByName(name)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    opened: Callable[..., Any] = kind(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return opened
