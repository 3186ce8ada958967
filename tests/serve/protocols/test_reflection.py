"""Reflection is there under both names, and describes itself under both."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.reflection import add_reflection


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_answer(version: str) -> None:
    server = grpc.aio.server()
    add_reflection((wire.SERVICE,), server, wire.POOL)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    own = f"grpc.reflection.{version}.ServerReflection"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.stream_stream(
            f"/{own}/ServerReflectionInfo",
            pb.ServerReflectionRequest.SerializeToString,
            pb.ServerReflectionResponse.FromString,
        )
        requests = [pb.ServerReflectionRequest(list_services="")]
        requests += [pb.ServerReflectionRequest(file_containing_symbol=name) for name in (own, wire.SERVICE)]
        listed, itself, inference = [answer async for answer in ask(requests, timeout=10)]
    assert {own, wire.SERVICE} <= {one.name for one in listed.list_services_response.service}
    packages = []
    for answer in (itself, inference):
        stored, *_ = answer.file_descriptor_response.file_descriptor_proto
        packages.append(descriptor_pb2.FileDescriptorProto.FromString(stored).package)
    assert packages == [own.rpartition(".")[0], "inference"]
    await server.stop(None)
