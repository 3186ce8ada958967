"""What a model takes and gives, as ModelMetadata and ModelConfig say it."""

from __future__ import annotations

from typing import Any

from secateur.serve.models.pool import ModelEntry, ModelVersion
from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.open_inference.infer_request import DEFAULT_PRIORITY, PRIORITIES
from secateur.serve.protocols.open_inference.tensors import BOOL, BYTES, FP32, INPUTS, OUTPUTS, UINT32

PLATFORM = "vllm"
CONFIG_TYPES = {BYTES: "TYPE_STRING", BOOL: "TYPE_BOOL", FP32: "TYPE_FP32", UINT32: "TYPE_UINT32"}


def metadata(model: ModelEntry) -> Any:
    """Return a ModelMetadataResponse; its versions are those that are loaded."""
    response = wire.ModelMetadataResponse(name=model.name, platform=PLATFORM)
    response.versions.extend(name for name, version in model.versions.items() if version.engine is not None)
    for tensors, described in ((INPUTS, response.inputs), (OUTPUTS, response.outputs)):
        for tensor in tensors.values():
            described.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response


def config(version: ModelVersion) -> Any:
    """Return the ModelConfig of a version."""
    described = wire.ModelConfig(name=version.name, backend=PLATFORM, max_batch_size=0)
    # Several answers to a request, if it is streamed. A request that is not gets exactly one.
    described.model_transaction_policy.decoupled = True
    described.version_policy.specific.versions.append(int(version.version))
    described.dynamic_batching.priority_levels = PRIORITIES
    described.dynamic_batching.default_priority_level = DEFAULT_PRIORITY
    for tensor in INPUTS.values():
        described.input.add(
            name=tensor.name,
            data_type=CONFIG_TYPES[tensor.datatype],
            dims=tensor.shape,
            optional=tensor.optional,
        )
    for tensor in OUTPUTS.values():
        described.output.add(name=tensor.name, data_type=CONFIG_TYPES[tensor.datatype], dims=tensor.shape)
    engine = version.engine
    if engine is not None:
        for fact in ("architecture", "dtype", "max_model_len", "vocabulary", "kv_cache_tokens"):
            described.parameters[fact].string_value = str(getattr(engine, fact))
    return described
