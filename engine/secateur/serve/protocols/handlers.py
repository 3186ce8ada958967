"""Registering services that have only some of the calls in their definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import message_factory

KINDS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def add_to_server(servicer: Any, service: Any, server: grpc.aio.Server) -> None:
    """Register those methods of a servicer that are named as the calls of a service; other calls are unknown.

    Args:
        servicer: with coroutine functions.
        service: a ServiceDescriptor, of any descriptor pool.
        server: gets them.
    """
    handlers = {
        method.name: _handler(method, getattr(servicer, method.name))
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def _handler(method: Any, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler:
    request, response = (
        message_factory.GetMessageClass(one) for one in (method.input_type, method.output_type)
    )
    make = KINDS[method.client_streaming, method.server_streaming]
    return make(behaviour, request.FromString, response.SerializeToString)
