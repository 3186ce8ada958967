"""Times checkpoints in vLLM's engine, and says how near that is to what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.bench.environment import environment
from secateur.bench.json_worker import run_json_worker
from secateur.bench.metrics.statistics import ConfidenceInterval, ratio_of_rounds, summarise
from secateur.bench.models import checkpoint_info, read_config
from secateur.bench.shape import DecoderShape, read_shape
from secateur.config.bench import DECODE_STEPS, BenchOptions
from secateur.errors import BadInput
from secateur.progress import ProgressReporter
from secateur.serve.engine.memory import MIN_KV_CACHE_BYTES

KV_BLOCK_TOKENS = 128  # tokens; vLLM reserves whole blocks
KV_CACHE_MARGIN = 1.25


@dataclass
class OfflineTimings:
    """What was measured, by model and batch; a list entry per round.

    Attributes:
        prefill: seconds until a batch of prompts had its first tokens.
        decode: seconds of every step.
        bandwidth: bytes read per second.
        product_rate: operations per second.
    """

    prefill: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    decode: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)
    bandwidth: list[float] = field(default_factory=list)
    product_rate: list[float] = field(default_factory=list)

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take over a line of the worker."""
        if "bandwidth" in answer:
            self.bandwidth.append(answer["bandwidth"])
        elif "product_rate" in answer:
            self.product_rate.append(answer["product_rate"])
        elif "prefill_ns" in answer:
            key = answer["model"], answer["batch"]
            self.prefill.setdefault(key, []).append(answer["prefill_ns"] / 1e9)
        elif "decode_ns" in answer:
            key = answer["model"], answer["batch"]
            self.decode.setdefault(key, []).append([ns / 1e9 for ns in answer["decode_ns"]])


def measure(options: BenchOptions, reporter: ProgressReporter) -> dict[str, Any]:
    """Time every model at every batch and describe it.

    Raises:
        BackendUnavailable: vLLM is missing, or cannot run one of them.
        BadInput: a folder is no checkpoint, or its context is too short.
    """
    _check_context(options)
    shapes = {name: read_shape(folder, read_config(folder)) for name, folder in options.folders.items()}
    where = environment()
    times = OfflineTimings()
    turns = 2 + 2 * len(options.batch) * len(options.folders)
    reporter.stage("timing vLLM", len(options.folders) + (options.rounds + 1) * turns)
    for answer in run_json_worker("secateur.bench.offline.worker", _job(options, shapes)):
        times.take(answer)
        reporter.step()
    return document(options, shapes, times, where)


def _check_context(options: BenchOptions) -> None:
    longest = max(options.input_len, options.context) + DECODE_STEPS
    for folder in options.folders.values():
        max_context = read_config(folder).get("max_position_embeddings")
        if max_context is not None and longest > max_context:
            raise BadInput("input_len", options.input_len, f"the context of {folder} is {max_context} tokens")


def document(
    options: BenchOptions, shapes: Mapping[str, DecoderShape], times: OfflineTimings, where: Mapping[str, Any]
) -> dict[str, Any]:
    """What was measured beside what is possible."""
    read, rate = max(times.bandwidth), max(times.product_rate)
    names = list(options.folders)
    results = [
        _result(options, shapes[name], times, name, batch, read, rate)
        for batch in options.batch
        for name in names
    ]
    return {
        "plan": _plan(options),
        "environment": dict(where),
        "ceilings": {
            "bandwidth_bytes_per_second": round(read),
            "bandwidth_of_rounds": [round(value) for value in times.bandwidth],
            "flops_per_second": round(rate),
            "flops_of_rounds": [round(value) for value in times.product_rate],
        },
        "models": [
            checkpoint_info(name, folder, options.dtype).to_json() for name, folder in options.folders.items()
        ],
        "results": results,
        "speedups": [
            _speedup(options, shapes, times, other, batch, read, rate)
            for batch in options.batch
            for other in names[1:]
        ],
    }


def _result(
    options: BenchOptions,
    shape: DecoderShape,
    times: OfflineTimings,
    name: str,
    batch: int,
    read: float,
    rate: float,
) -> dict[str, Any]:
    decode, prefill = times.decode[name, batch], times.prefill[name, batch]
    step = float(np.median([np.median(turn) for turn in decode]))
    whole = float(np.median(prefill))
    decode_floor, prefill_floor = _floors(options, shape, batch, read, rate)
    summary = summarise([[float(np.median(turn))] for turn in decode])
    interval = summary.intervals.get("median") if summary else None
    bytes_read = shape.decode_bytes(batch, options.context, options.dtype)
    return {
        "model": name,
        "batch": batch,
        "decode": {
            "step_ms": round(step * 1e3, 4),
            "interval_ms": interval and [round(interval.low * 1e3, 4), round(interval.high * 1e3, 4)],
            "tokens_per_second": round(batch / step, 2),
            "bytes_per_step": bytes_read,
            "flops_per_step": shape.decode_flops(batch, options.context),
            "bandwidth_floor_ms": round(bytes_read / read * 1e3, 4),
            "floor_ms": round(decode_floor * 1e3, 4),
            "times_bandwidth_floor": round(step / (bytes_read / read), 3),
            "times_floor": round(step / decode_floor, 3),
            "steps_ms_of_rounds": [round(float(np.median(turn)) * 1e3, 4) for turn in decode],
        },
        "prefill": {
            "seconds": round(whole, 6),
            "tokens_per_second": round(batch * options.input_len / whole, 2),
            "flops": shape.prefill_flops(batch, options.input_len),
            "floor_seconds": round(prefill_floor, 6),
            "times_floor": round(whole / prefill_floor, 3),
            "seconds_of_rounds": [round(value, 6) for value in prefill],
        },
    }


def _floors(
    options: BenchOptions, shape: DecoderShape, batch: int, read: float, rate: float
) -> tuple[float, float]:
    """Seconds below which a step, and a batch of prompts, cannot go: the longer of reading and computing."""
    weights = shape.decode_bytes(0, 0, options.dtype)
    decode = max(
        shape.decode_bytes(batch, options.context, options.dtype) / read,
        shape.decode_flops(batch, options.context) / rate,
    )
    prefill = max(weights / read, shape.prefill_flops(batch, options.input_len) / rate)
    return decode, prefill


def _speedup(
    options: BenchOptions,
    shapes: Mapping[str, DecoderShape],
    times: OfflineTimings,
    other: str,
    batch: int,
    read: float,
    rate: float,
) -> dict[str, Any]:
    """The first model's time over another's, beside what bytes and operations promise."""
    first = next(iter(options.folders))
    floors = {name: _floors(options, shapes[name], batch, read, rate) for name in (first, other)}
    speedup: dict[str, Any] = {"first": first, "second": other, "batch": batch}
    pairs = {
        "decode": {name: [float(np.median(t)) for t in times.decode[name, batch]] for name in (first, other)},
        "prefill": {name: times.prefill[name, batch] for name in (first, other)},
    }
    for index, (kind, seconds) in enumerate(pairs.items()):
        ratio = ratio_of_rounds(seconds[other], seconds[first])
        assert ratio is not None
        promised = floors[first][index] / floors[other][index]
        speedup[kind] = {
            "speedup": round(ratio.value, 4),
            "interval": _interval(ratio.interval),
            "differ": ratio.differ,
            "promised": round(promised, 4),
            "kept_of_promise": round(ratio.value / promised, 4),
        }
    dense, slim = (shapes[name] for name in (first, other))
    speedup["decode"]["promised_by_bytes"] = round(
        dense.decode_bytes(batch, options.context, options.dtype)
        / slim.decode_bytes(batch, options.context, options.dtype),
        4,
    )
    speedup["decode"]["promised_by_flops"] = round(
        dense.decode_flops(batch, options.context) / slim.decode_flops(batch, options.context), 4
    )
    return speedup


def _interval(interval: ConfidenceInterval | None) -> Sequence[float] | None:
    return None if interval is None else [round(interval.low, 4), round(interval.high, 4)]


def _plan(options: BenchOptions) -> dict[str, Any]:
    return {
        "folders": {name: str(folder) for name, folder in options.folders.items()},
        "batches": list(options.batch),
        "input_tokens": options.input_len,
        "context": options.context,
        "rounds": options.rounds,
        "dtype": options.dtype,
        "threads": options.threads,
    }


def _job(options: BenchOptions, shapes: Mapping[str, DecoderShape]) -> Mapping[str, Any]:
    longest = max(options.input_len, options.context) + DECODE_STEPS + KV_BLOCK_TOKENS
    tokens = max(options.batch) * (longest // KV_BLOCK_TOKENS + 1) * KV_BLOCK_TOKENS
    return _plan(options) | {
        "steps": DECODE_STEPS,
        "max_model_len": longest - KV_BLOCK_TOKENS + 8,
        "vocabulary": min(int(read_config(folder)["vocab_size"]) for folder in options.folders.values()),
        "kv_cache_bytes": {
            str(folder): max(
                MIN_KV_CACHE_BYTES,
                int(KV_CACHE_MARGIN * tokens * shapes[name].kv_bytes_per_token(options.dtype)),
            )
            for name, folder in options.folders.items()
        },
    }
