"""Models and versions in their wire form."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from secateur.serve.models.checkpoint import Checkpoint
from secateur.serve.models.plan import MemoryPlan
from secateur.serve.models.pool import ModelEntry, ModelPool, etag
from secateur.serve.models.version import ModelVersion
from secateur.v1 import models_pb2


def describe(model: ModelEntry, pool: ModelPool) -> models_pb2.Model:
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


def describe_version(version: ModelVersion, model: ModelEntry) -> models_pb2.ModelVersion:
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
    described.create_time.FromMilliseconds(int(version.created_at * 1e3))
    if version.unload_due is not None:
        # By a clock that nobody sets; shown by the one that people read.
        unload_at = time.time() + version.unload_due - time.monotonic()
        described.unload_time.FromMilliseconds(int(unload_at * 1e3))
    if version.checkpoint is not None:
        described.checkpoint.CopyFrom(describe_checkpoint(version.checkpoint))
    engine = version.engine
    if version.check is not None and engine is not None:
        described.check.CopyFrom(models_pb2.EngineCheck(**asdict(version.check)))
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


def describe_plan(plan: MemoryPlan) -> models_pb2.MemoryPlan:
    """Return the wire form of a plan."""
    return models_pb2.MemoryPlan(
        weight_bytes=plan.weights,
        kv_cache_bytes=plan.kv_cache,
        overhead_bytes=plan.overhead,
        needed_bytes=plan.needed,
        available_bytes=plan.available,
        fits=plan.fits,
        unloads=plan.unloads,
    )


def describe_checkpoint(checkpoint: Checkpoint) -> models_pb2.Checkpoint:
    """Return the wire form of a checkpoint, with what its record says as far as it can be understood."""
    described = models_pb2.Checkpoint(
        folder=str(checkpoint.folder),
        fingerprint=checkpoint.fingerprint,
        model_type=checkpoint.model_type,
        weight_bytes=checkpoint.weight_bytes,
    )
    for part in (_shape, _parameters, _limits, _perplexities, _lineage):
        try:
            described.MergeFrom(part(checkpoint.record))
        except (KeyError, TypeError, ValueError, AttributeError):  # the file is whoever's
            continue
    return described


def _shape(record: Mapping[str, Any]) -> models_pb2.Checkpoint:
    groups, channels = record["architecture"]["groups"], record["architecture"]["channels"]
    shape = models_pb2.Shape(
        kv_groups=groups,
        channels=channels,
        removed_attentions=groups.count(0),
        removed_ffns=channels.count(0),
    )
    return models_pb2.Checkpoint(shape=shape)


def _parameters(record: Mapping[str, Any]) -> models_pb2.Checkpoint:
    counts = (models_pb2.ParameterCount(**record[key]) for key in ("parameters", "kept"))
    return models_pb2.Checkpoint(dense_parameters=next(counts), kept_parameters=next(counts))


def _limits(record: Mapping[str, Any]) -> models_pb2.Checkpoint:
    limits = record["budget"]["limits"]
    return models_pb2.Checkpoint(
        limits=[models_pb2.BudgetLimit(kind=kind, **limit) for kind, limit in limits.items()]
    )


def _perplexities(record: Mapping[str, Any]) -> models_pb2.Checkpoint:
    dense, slim = (record[model]["perplexity"] for model in ("dense", "slim"))
    return models_pb2.Checkpoint(
        perplexities=[
            models_pb2.Perplexity(corpus=corpus, dense=dense.get(corpus), slim=slim.get(corpus))
            for corpus in {**dense, **slim}
        ]
    )


def _lineage(record: Mapping[str, Any]) -> models_pb2.Checkpoint:
    search = record.get("search", {})
    lineage = models_pb2.Lineage(
        base_model=record["model"]["reference"],
        base_fingerprint=record["model"]["fingerprint"],
        kl=search.get("kl") or 0.0,
        pairs=search.get("pairs", 0),
        seed=record.get("seed", 0),
        corpora=record.get("corpora", ()),
        secateur=record.get("versions", {}).get("secateur", ""),
    )
    return models_pb2.Checkpoint(lineage=lineage)
