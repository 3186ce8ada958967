"""What a client asks of a benchmark, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.v1 import benchmarks_pb2

SLO = re.compile(r"((ttft|tpot|e2el)=\d+(\.\d+)?(us|ms|s)(,(?!$)|$))+|mlperf-[a-z0-9.-]+")
MAX_CONCURRENCY, MAX_REQUEST_RATE = 4096, 1e5
DEFAULT_SECONDS, MAX_SECONDS = 30.0, 3600.0
MAX_ROUNDS, MAX_TOKENS = 100, 2**20
COMPARISON_ROUNDS = 6
INPUT_TOKENS, OUTPUT_TOKENS = 256, 64


def job_from_request(request: benchmarks_pb2.RunBenchmarkRequest, models: Sequence[str]) -> dict[str, Any]:
    """Return the job that `secateur.bench.worker` reads, but for where it runs.

    Args:
        request: as the client sent it.
        models: the names of those to measure.

    Raises:
        Refused: INVALID_ARGUMENT naming every field at fault.
    """
    rounds = COMPARISON_ROUNDS if len(models) > 1 else 1
    job = {
        "models": list(models),
        "concurrencies": list(request.closed.concurrencies),
        "rates": list(request.open.rates),
        "constant": request.open.constant,
        "seconds": request.seconds if request.HasField("seconds") else DEFAULT_SECONDS,
        "rounds": request.rounds if request.HasField("rounds") else rounds,
        "input_tokens": request.input_tokens if request.HasField("input_tokens") else INPUT_TOKENS,
        "output_tokens": request.output_tokens if request.HasField("output_tokens") else OUTPUT_TOKENS,
        "slo": request.slo,
    }
    if violations := list(_violations(request, job)):
        raise invalid_argument(*violations)
    return job


def _violations(request: benchmarks_pb2.RunBenchmarkRequest, job: dict[str, Any]) -> Iterator[FieldViolation]:
    if request.WhichOneof("load") is None:
        yield FieldViolation("load", "give one of closed, open")
    elif not job["concurrencies"] and not job["rates"]:
        yield FieldViolation(request.WhichOneof("load") or "load", "got no load, at least one")
    for count in job["concurrencies"]:
        if not 1 <= count <= MAX_CONCURRENCY:
            yield FieldViolation("closed.concurrencies", f"got {count}, 1 to {MAX_CONCURRENCY}")
    for rate in job["rates"]:
        if not 0 < rate <= MAX_REQUEST_RATE:
            yield FieldViolation("open.rates", f"got {rate:g}, above 0, at most {MAX_REQUEST_RATE:g}")
    if not 0 < job["seconds"] <= MAX_SECONDS or math.isnan(job["seconds"]):
        yield FieldViolation("seconds", f"got {job['seconds']:g}, above 0, at most {MAX_SECONDS:g}")
    for field, most in (
        ("rounds", MAX_ROUNDS),
        ("input_tokens", MAX_TOKENS),
        ("output_tokens", MAX_TOKENS),
    ):
        if not 1 <= job[field] <= most:
            yield FieldViolation(field, f"got {job[field]}, 1 to {most}")
    if job["slo"] and not SLO.fullmatch(job["slo"]):
        yield FieldViolation("slo", f"got {job['slo'][:100]!r}, for example ttft=500ms,tpot=50ms")
    if len(set(job["models"])) < len(job["models"]):
        yield FieldViolation("compare", "a model is compared with itself")
