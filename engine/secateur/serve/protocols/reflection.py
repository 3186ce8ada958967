"""Server reflection under both its names: v1, which newer clients ask for, and v1alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

SERVICE = "grpc.reflection.v1.ServerReflection"


def _load() -> descriptor_pool.DescriptorPool:
    """Return a pool with v1, which differs from v1alpha in its package only; grpcio-reflection lacks it."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    pool = descriptor_pool.DescriptorPool()
    renamed = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    pool.Add(text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto()))
    return pool


POOL = _load()


class MergedPool:
    """Several pools as one: what the first does not have is looked for in the next."""

    def __init__(self, pools: Sequence[Any]) -> None:
        self._pools = pools

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def find(*arguments: Any) -> Any:
            for pool in self._pools[:-1]:
                try:
                    return getattr(pool, name)(*arguments)
                except KeyError:
                    pass
            return getattr(self._pools[-1], name)(*arguments)

        return find


def add_reflection(services: Sequence[str], server: grpc.aio.Server, *pools: Any) -> None:
    """Let clients ask which services there are.

    Args:
        services: their full names.
        server: gets it.
        pools: where they are described, beside the pool that everybody shares.
    """
    merged = MergedPool((descriptor_pool.Default(), *pools, POOL))
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME, SERVICE), pool=merged)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
