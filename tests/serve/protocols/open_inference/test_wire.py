"""Package ``inference`` lives in a pool of its own, and is there for reflection all the same."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.reflection import MergedPool
from secateur.v1 import inference_pb2


def test_a_second_definition_in_the_shared_pool_does_no_harm() -> None:
    shared = descriptor_pool.Default()
    with pytest.raises(KeyError):
        shared.FindMessageTypeByName("inference.ModelInferRequest")
    other = descriptor_pb2.FileDescriptorProto(name="other.proto", package="inference", syntax="proto3")
    other.message_type.add(name="ServerLiveResponse")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(other)  # what tritonclient and kserve do to the shared pool
    assert wire.ServerLiveResponse(live=True).live


def test_reflection_sees_both_pools() -> None:
    both = MergedPool((descriptor_pool.Default(), wire.POOL))
    assert both.FindFileContainingSymbol(wire.SERVICE).name == "grpc_service.proto"
    assert both.FindFileByName("model_config.proto").package == "inference"
    service = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
    assert both.FindFileContainingSymbol(service).name == "secateur/v1/inference.proto"
    with pytest.raises(KeyError):
        both.FindFileContainingSymbol("inference.Nothing")
