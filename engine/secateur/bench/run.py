"""The job: connect, prove that every model answers, then one load after another, the models taking turns."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from secateur.bench.environment import environment
from secateur.bench.load.generator import BenchmarkTarget, LoadGenerator
from secateur.bench.load.journal import BenchmarkLog, Journal, LoadHeader
from secateur.bench.load.record import Phase, RequestRecord, StreamedResponse
from secateur.bench.load.request_source import make_requests
from secateur.bench.load.stage import ClosedLoop, LoadPattern, OpenLoop, Stage, StopCondition
from secateur.bench.load.target import RequestFailed, Target, TargetUnusable
from secateur.bench.load.workload import Workload, read_workload
from secateur.bench.metrics.row import throughput
from secateur.bench.models import ModelInfo, checkpoint_info
from secateur.bench.targets.registry import open_target
from secateur.client.endpoint import Endpoint
from secateur.config.bench import BenchOptions
from secateur.progress import ProgressReporter

Result = TypeVar("Result")

SATURATION_GAIN = 1.05
"""A sweep ends when twice the clients get less than so many times the throughput."""

MAX_SWEEP_CONCURRENCY = 256
SWEEP_RATES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Open loops of a sweep, as shares of the most that closed ones got through."""


async def interruptible(work: Callable[[asyncio.Event], Awaitable[Result]]) -> Result:
    """Await work that an event tells to end: Ctrl-C sets it; the second time it ends the work at once.

    Raises:
        KeyboardInterrupt: interrupted a second time.
    """
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))

    def received() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@dataclass
class _Progress:
    """Turns records into steps of a reporter: measured requests, or whole seconds."""

    reporter: ProgressReporter
    stop: StopCondition = field(default_factory=StopCondition)
    began: float = 0.0
    reported_seconds: int = 0

    def begin(self, name: str, stop: StopCondition) -> None:
        self.stop, self.began, self.reported_seconds = stop, time.monotonic(), 0
        self.reporter.stage(name, stop.requests or max(1, round(stop.seconds or 1)))

    def __call__(self, record: RequestRecord) -> None:
        if self.stop.requests is not None:
            if record.phase is Phase.MEASURED:
                self.reporter.step()
            return
        seconds = min(int(time.monotonic() - self.began), round(self.stop.seconds or 0))
        if seconds > self.reported_seconds:
            self.reporter.step(count=seconds - self.reported_seconds)
            self.reported_seconds = seconds


async def run(
    options: BenchOptions,
    access: Endpoint,
    file: Path | None,
    reporter: ProgressReporter,
    stop: asyncio.Event,
) -> BenchmarkLog:
    """Run a benchmark.

    Args:
        access: how servers are called; its own target does not matter.
        file: where records go as they come; None = nowhere.
        stop: set to end it early; what there is then is returned.

    Raises:
        TargetUnusable: a server does not answer, or has no such model.
        BadInput: no such corpus or trace, or a token would travel unencrypted.
        OutputFailed: the file cannot be written.
    """
    workload = read_workload(options)
    servers: dict[str, Target] = {}
    try:
        for spec in options.targets:
            if spec.address not in servers:
                servers[spec.address] = open_target(spec.address, access)
        targets, models = await _connect(options, workload, servers)
        header = {
            "options": options_json(options, workload, access),
            "environment": environment(),
            "targets": {address: server.kind for address, server in servers.items()},
            "models": [model.to_json() for model in models],
            "labels": list(options.labels),
        }
        journal = Journal(file, header)
        try:
            progress = _Progress(reporter)
            generator = LoadGenerator(journal, time.perf_counter(), stop, progress)
            with _gc_disabled():
                await _Benchmark(options, workload, generator, targets, progress).run()
        finally:
            journal.close()
        return journal.log
    finally:
        await asyncio.gather(*(server.close() for server in servers.values()))


def options_json(options: BenchOptions, workload: Workload, access: Endpoint) -> dict[str, Any]:
    """What was asked for, as in reports; no secrets."""
    return {
        "subjects": [asdict(spec) for spec in options.targets],
        "loads": [load.to_json() for load in workload.loads],
        "extent": asdict(workload.stop),
        "sweep": options.sweep,
        "input_tokens": options.input_len,
        "output_tokens": options.output_len,
        "ignore_eos": not options.stop_at_eos,
        "corpus": options.corpus,
        "trace_requests": len(workload.trace),
        "rounds": options.rounds,
        "slo": options.slo and dict(options.slo),
        "timeout": access.timeout,
        "seed": options.seed,
    }


@dataclass
class _Benchmark:
    """The stages of a benchmark: one per load, numbered from 0."""

    options: BenchOptions
    workload: Workload
    generator: LoadGenerator
    targets: Sequence[BenchmarkTarget]
    progress: _Progress
    stages: int = 0

    async def run(self) -> None:
        if self.options.sweep:
            await self._sweep()
            return
        for load in self.workload.loads:
            if not await self._run_load(load):
                return

    async def _run_load(self, load: LoadPattern) -> bool:
        """All rounds of a load; False when the benchmark is to end."""
        number = self.stages
        self.stages += 1
        self.generator.journal.add(LoadHeader(number, load.to_json()))
        shares = self.workload.shares(load)
        for turn, share in enumerate(shares):
            for target in self.targets:
                suffix = f", round {turn + 1} of {len(shares)}" if len(shares) > 1 else ""
                self.progress.begin(f"{load.label}: {target.label}{suffix}", share)
                stage = Stage(number, load, share)
                if not await self.generator.run(stage, turn, target, self.options.seed + turn):
                    return False
        return True

    async def _sweep(self) -> None:
        """Twice the clients until that gains nothing; then requests at rates around what was the most."""
        max_rates: dict[str, float] = {}
        clients = 1
        while clients <= MAX_SWEEP_CONCURRENCY:
            if not await self._run_load(ClosedLoop(clients)):
                return
            rates = {target.label: self._requests_per_second(target.label) for target in self.targets}
            saturated = all(rates[label] < SATURATION_GAIN * max_rates.get(label, 0.0) for label in rates)
            max_rates = {label: max(rates[label], max_rates.get(label, 0.0)) for label in rates}
            if saturated:
                break
            clients *= 2
        # All get the same load, so that they can be compared: what the slowest can bear.
        rate = min(max_rates.values())
        for share in SWEEP_RATES:
            if rate <= 0 or not await self._run_load(OpenLoop(float(f"{share * rate:.3g}"))):
                return

    def _requests_per_second(self, label: str) -> float:
        """Of a model in the last stage."""
        records = [
            record
            for record in self.generator.journal.log.records
            if record.stage == self.stages - 1 and record.model == label
        ]
        return float(throughput(records, None)["request_throughput"])


async def _connect(
    options: BenchOptions, workload: Workload, servers: Mapping[str, Target]
) -> tuple[list[BenchmarkTarget], list[ModelInfo]]:
    """Prove that every model answers."""
    targets, models = [], []
    for label, spec in zip(options.labels, options.targets, strict=True):
        server = servers[spec.address]
        try:
            info = await server.describe(spec.name)
            request = await make_requests(server, info.name, options, workload.trace)
            # One for all: the first answer compiles, allocates and connects.
            await server.stream(info.name, request(2**31), StreamedResponse())
        except RequestFailed as failure:
            raise TargetUnusable(f"{spec.address}: {failure.code}: {failure.message}") from failure
        targets.append(BenchmarkTarget(label, info.name, server, request))
        model = replace(info, name=label)
        if folder := options.checkpoints.get(label):
            model = model.completed_by(checkpoint_info(label, folder, info.dtype))
        models.append(model)
    return targets, models


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """No pauses for collecting garbage while times are taken."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
