"""Models and versions in their wire form."""

from __future__ import annotations

import hashlib

from secateur.serve.models.pool import Model, Pool
from secateur.serve.models.version import ServedModel
from secateur.v1 import models_pb2


def describe(model: Model, pool: Pool) -> models_pb2.Model:
    """Return the wire form of a model, its versions and its counters."""
    described = models_pb2.Model(
        name=model.name,
        active_version=model.active or "",
        previous_version=model.previous or "",
        aliases=sorted(alias for alias, name in pool.aliases.items() if name == model.name),
        versions=[describe_version(version, model) for version in model.versions.values()],
        etag=etag(model),
    )
    if model.active:
        active = next(version for version in described.versions if version.active)
        described.state = active.state
        described.architecture = active.architecture
        described.dtype = active.dtype
        described.max_model_len = active.max_model_len
        described.kv_cache_tokens = active.kv_cache_tokens
        described.load_seconds = active.load_seconds
        described.counters.kv_cache_usage = active.counters.kv_cache_usage
    for version in described.versions:
        for field in models_pb2.EngineCounters.DESCRIPTOR.fields:
            if field.name != "kv_cache_usage":
                total = getattr(described.counters, field.name) + getattr(version.counters, field.name)
                setattr(described.counters, field.name, total)
    return described


def describe_version(version: ServedModel, model: Model) -> models_pb2.ModelVersion:
    """Return the wire form of a version and its counters."""
    described = models_pb2.ModelVersion(
        model=version.name,
        version=version.version,
        state=models_pb2.ModelState.Name(version.state.value),
        reason=version.reason,
        active=model.active == version.version,
        counters=models_pb2.EngineCounters(
            prompt_tokens=version.totals.prompt_tokens,
            generated_tokens=version.totals.generated_tokens,
            finished_requests=version.totals.finished,
            aborted_requests=version.totals.aborted,
        ),
    )
    engine = version.engine
    if engine is not None:
        described.architecture = engine.architecture
        described.dtype = engine.dtype
        described.max_model_len = engine.max_model_len
        described.kv_cache_tokens = engine.kv_cache_tokens
        described.load_seconds = engine.load_seconds
        described.counters.running_requests = engine.load.running
        described.counters.waiting_requests = engine.load.waiting
        described.counters.kv_cache_usage = engine.load.kv_cache_usage
    return described


def etag(model: Model) -> str:
    """Return what changes whenever versions, or which of them is active or loaded, change."""
    facts = [model.name, model.active, model.previous, model.numbered]
    facts += [(version.version, version.engine is not None) for version in model.versions.values()]
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()
