"""The job: connect, prove that every model answers, then one load after another, the models taking turns."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secateur.bench.environment import environment
from secateur.bench.load.driver import BenchmarkTarget, LoadGenerator
from secateur.bench.load.journal import BenchmarkLog, Journal, LoadHeader
from secateur.bench.load.record import Phase, RequestRecord, StreamedResponse
from secateur.bench.load.source import RequestSpec, make_requests
from secateur.bench.load.stage import ClosedLoop, LoadPattern, OpenLoop, Stage, StopCondition
from secateur.bench.load.target import RequestFailed, Target, TargetUnusable
from secateur.bench.metrics.row import throughput
from secateur.bench.models import ModelInfo, checkpoint_info
from secateur.bench.options import DEFAULT_STOP_CONDITION, BenchOptions
from secateur.bench.targets.registry import open_target

SATURATION_GAIN = 1.05
"""A sweep ends when twice the clients get less than so many times the throughput."""

MAX_SWEEP_CONCURRENCY = 256
SWEEP_RATES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Open loops of a sweep, as shares of the most that closed ones got through."""


class BenchmarkReporter(Protocol):
    """Is told how a benchmark goes."""

    def stage(self, name: str, total: int) -> None:
        """A stage of about so many seconds, or requests, begins."""
        ...

    def step(self, note: str = "", count: int = 1) -> None: ...

    def say(self, line: str) -> None: ...


@dataclass
class _Progress:
    """Turns records into steps of a reporter: measured requests, or whole seconds."""

    reporter: BenchmarkReporter
    extent: StopCondition = DEFAULT_STOP_CONDITION
    began: float = 0.0
    told: int = 0

    def begin(self, name: str, extent: StopCondition) -> None:
        self.extent, self.began, self.told = extent, time.monotonic(), 0
        self.reporter.stage(name, extent.requests or max(1, round(extent.seconds or 1)))

    def __call__(self, record: RequestRecord) -> None:
        if self.extent.requests is not None:
            if record.phase is Phase.MEASURED:
                self.reporter.step()
            return
        seconds = min(int(time.monotonic() - self.began), round(self.extent.seconds or 0))
        if seconds > self.told:
            self.reporter.step(count=seconds - self.told)
            self.told = seconds


async def run(
    options: BenchOptions, file: Path | None, reporter: BenchmarkReporter, stop: asyncio.Event
) -> BenchmarkLog:
    """Run a benchmark.

    Args:
        options: what to measure.
        file: where records go as they come; None = nowhere.
        reporter: is told how it goes.
        stop: set to end it early; what there is then is returned.

    Raises:
        TargetUnusable: a server does not answer, or has no such model.
        BadInput: no such corpus.
        OutputFailed: the file cannot be written.
    """
    targets: dict[str, Target] = {}
    try:
        subjects, facts = await _connect_targets(options, targets)
        header = {
            "options": options.to_json(),
            "environment": environment(),
            "targets": {address: target.kind for address, target in targets.items()},
            "models": [one.to_json() for one in facts],
            "labels": list(options.labels),
        }
        journal = Journal(file, header)
        try:
            progress = _Progress(reporter)
            driver = LoadGenerator(journal, time.perf_counter(), stop, progress)
            with _gc_disabled():
                await _stages(options, driver, subjects, progress)
        finally:
            journal.close()
        return journal.log
    finally:
        await asyncio.gather(*(target.close() for target in targets.values()))


async def _stages(
    options: BenchOptions, driver: LoadGenerator, subjects: Sequence[BenchmarkTarget], progress: _Progress
) -> None:
    if options.sweep:
        await _Sweep(options, driver, subjects, progress).run()
        return
    for number, load in enumerate(options.loads):
        if not await _load(options, driver, subjects, progress, number, load):
            return


async def _load(
    options: BenchOptions,
    driver: LoadGenerator,
    subjects: Sequence[BenchmarkTarget],
    progress: _Progress,
    place: int,
    load: LoadPattern,
) -> bool:
    """All rounds of a load; False when the benchmark is to end."""
    driver.journal.add(LoadHeader(place, load.to_json()))
    shares = options.shares(load)
    for number, share in enumerate(shares):
        for subject in subjects:
            turn = f", round {number + 1} of {len(shares)}" if len(shares) > 1 else ""
            progress.begin(f"{load.label}: {subject.label}{turn}", share)
            if not await driver.run(Stage(place, load, share), number, subject, options.seed + number):
                return False
    return True


class _Sweep:
    """Twice the clients until that gains nothing; then requests at rates around what was the most."""

    def __init__(
        self,
        options: BenchOptions,
        driver: LoadGenerator,
        subjects: Sequence[BenchmarkTarget],
        progress: _Progress,
    ) -> None:
        self._arguments = (options, driver, subjects, progress)
        self._options, self._driver, self._subjects = options, driver, subjects
        self._number = 0

    async def run(self) -> None:
        most: dict[str, float] = {}
        clients = 1
        while clients <= MAX_SWEEP_CONCURRENCY:
            if not await self._load(ClosedLoop(clients)):
                return
            found = {subject.label: self._requests_per_second(subject.label) for subject in self._subjects}
            saturated = all(found[label] < SATURATION_GAIN * most.get(label, 0.0) for label in found)
            most = {label: max(found[label], most.get(label, 0.0)) for label in found}
            if saturated:
                break
            clients *= 2
        # All get the same load, so that they can be compared: what the slowest can bear.
        rate = min(most.values())
        for share in SWEEP_RATES:
            if rate <= 0 or not await self._load(OpenLoop(float(f"{share * rate:.3g}"))):
                return

    async def _load(self, load: LoadPattern) -> bool:
        self._number += 1
        return await _load(*self._arguments, self._number - 1, load)

    def _requests_per_second(self, label: str) -> float:
        last = [
            record
            for record in self._driver.journal.log.records
            if record.stage == self._number - 1 and record.model == label
        ]
        return float(throughput(last, None)["request_throughput"])


async def _connect_targets(
    options: BenchOptions, targets: dict[str, Target]
) -> tuple[list[BenchmarkTarget], list[ModelInfo]]:
    """Connect, and prove that every model answers."""
    wanted = RequestSpec(
        options.input_tokens,
        options.output_tokens,
        options.ignore_eos,
        options.corpus,
        options.trace,
        options.seed,
    )
    subjects, facts = [], []
    for label, spec in zip(options.labels, options.subjects, strict=True):
        if spec.address not in targets:
            targets[spec.address] = open_target(spec.address, options.access)
        target = targets[spec.address]
        try:
            known = await target.describe(spec.name)
            request = await make_requests(target, known.name, wanted)
            # One for all: the first answer compiles, allocates and connects.
            await target.stream(known.name, request(2**31), StreamedResponse())
        except RequestFailed as failure:
            raise TargetUnusable(f"{spec.address}: {failure.code}: {failure.message}") from failure
        subjects.append(BenchmarkTarget(label, known.name, target, request))
        facts.append(_model_info(label, known, dict(options.checkpoints)))
    return subjects, facts


def _model_info(label: str, known: ModelInfo, checkpoints: Mapping[str, Path]) -> ModelInfo:
    renamed = ModelInfo(**{**known.to_json(), "name": label})
    if label not in checkpoints:
        return renamed
    return renamed.completed_by(checkpoint_info(label, checkpoints[label], known.dtype))


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """No pauses for collecting garbage while times are taken."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
