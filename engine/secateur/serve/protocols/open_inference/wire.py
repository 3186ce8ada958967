"""Messages and service of package ``inference``, in a descriptor pool of their own.

Stubs from protoc would register in the pool that everybody shares, where a second definition of the same
messages is an error: tritonclient and kserve cannot be imported together for that reason. In a pool of its
own ours gets along with both, whatever their versions and that of protobuf.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
DESCRIPTORS = "inference.binpb"
"""What `make proto` made of proto/inference."""


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    stored = files(__package__).joinpath(DESCRIPTORS).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(stored).file:
        pool.Add(file)
    return pool


POOL = _load()
SERVICE_DESCRIPTOR = POOL.FindServiceByName(SERVICE)


def message(name: str) -> Any:
    """Return the class of a message, for example ``ModelInferRequest``."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


InferParameter = message("InferParameter")
ModelConfig = message("ModelConfig")
ModelConfigResponse = message("ModelConfigResponse")
ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelMetadataResponse = message("ModelMetadataResponse")
ModelReadyResponse = message("ModelReadyResponse")
ModelStatistics = message("ModelStatistics")
ModelStatisticsResponse = message("ModelStatisticsResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
RepositoryIndexResponse = message("RepositoryIndexResponse")
RepositoryModelLoadResponse = message("RepositoryModelLoadResponse")
RepositoryModelUnloadResponse = message("RepositoryModelUnloadResponse")
ServerLiveResponse = message("ServerLiveResponse")
ServerMetadataResponse = message("ServerMetadataResponse")
ServerReadyResponse = message("ServerReadyResponse")
