"""Runs a stage against a server: sends on time, writes down what happens, notices when nothing works.

Requests before the measured ones warm up; requests after them keep up the load until the last measured one
is answered, so that all of them meet the same load.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.bench.load.journal import GeneratorStats, Journal, StageNote
from secateur.bench.load.prompt import BenchmarkRequest
from secateur.bench.load.record import Phase, RequestRecord, StreamedResponse
from secateur.bench.load.stage import (
    MIN_WARMUP_SECONDS,
    WARMUP_SHARE,
    ClosedLoop,
    OpenLoop,
    Stage,
    TraceReplay,
)
from secateur.bench.load.target import RequestFailed, Target

CANCELLED = "CANCELLED"
"""Error of a request that we gave up ourselves; it says nothing about the server."""

ABORT_AFTER_SECONDS = 5.0
"""So long nothing but failures, and a stage is over."""

BACKOFF_SECONDS = 0.1
"""What a client of a closed loop waits after a failure: a dead server is not to be asked without pause."""

LAG_SECONDS = 0.01


@dataclass(frozen=True)
class BenchmarkTarget:
    """What is measured: a model of a server.

    Attributes:
        label: as in reports.
        name: as the server calls it.
        server: the connection to it.
        request: the request of a number.
    """

    label: str
    name: str
    server: Target
    request: Callable[[int], BenchmarkRequest]


@dataclass
class LoadGenerator:
    """Runs stages one after another.

    Attributes:
        journal: where everything goes.
        began: when the benchmark began, by `time.perf_counter`.
        stop: set when the user wants it to end.
        progress: called with every record.
    """

    journal: Journal
    began: float
    stop: asyncio.Event
    progress: Callable[[RequestRecord], None] = lambda record: None
    _numbers: dict[str, int] = field(default_factory=dict)

    async def run(self, stage: Stage, round_number: int, target: BenchmarkTarget, seed: int) -> bool:
        """Run a stage once; False if it was given up or stopped."""
        run = _StageRun(self, stage, round_number, target)
        return await run.whole(seed)

    def now(self) -> float:
        """Seconds since the benchmark began."""
        return time.perf_counter() - self.began

    def number(self, target: BenchmarkTarget) -> int:
        """The next number of a request to a target; each is used once in a benchmark."""
        number = self._numbers.get(target.label, 0)
        self._numbers[target.label] = number + 1
        return number


class _StageRun:
    """One round of one stage with one target."""

    def __init__(
        self, generator: LoadGenerator, stage: Stage, round_number: int, target: BenchmarkTarget
    ) -> None:
        self._generator = generator
        self._stage = stage
        self._round = round_number
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._open_measured = 0
        self._all_issued = False
        self._over = asyncio.Event()
        self._last_success = generator.now()
        self._failures = 0
        self._gave_up = False
        self._messages = 0
        self._broken: BaseException | None = None

    async def whole(self, seed: int) -> bool:
        started, cpu = time.perf_counter(), time.process_time()
        lags: list[float] = []
        watch = asyncio.create_task(_watch_lag(lags))
        load = asyncio.create_task(self._load(seed))
        stopped = asyncio.create_task(self._generator.stop.wait())
        over = asyncio.create_task(self._over.wait())
        try:
            # The load ends by itself where nothing comes after the measured requests.
            await asyncio.wait({load, stopped, over}, return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                load.result()
                if self._open_measured:
                    await asyncio.wait({stopped, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watch, load, stopped, over, *self._tasks):
                task.cancel()
            await asyncio.gather(load, *self._tasks, return_exceptions=True)
        if self._broken is not None:
            raise self._broken
        self._report(time.perf_counter() - started, time.process_time() - cpu, lags)
        return not self._gave_up and not self._generator.stop.is_set()

    def _load(self, seed: int) -> Coroutine[Any, Any, None]:
        load = self._stage.load
        if isinstance(load, ClosedLoop):
            return self._closed(load)
        if isinstance(load, OpenLoop):
            return self._open(load, seed)
        return self._replay(load)

    async def _closed(self, load: ClosedLoop) -> None:
        phases = self._closed_phases(load)

        async def client() -> None:
            while True:
                phase = next(phases)
                number, request = self._next()
                ok = await self._send(number, request, phase, self._generator.now())
                if not ok:
                    await asyncio.sleep(BACKOFF_SECONDS)

        await asyncio.gather(*(client() for _ in range(load.concurrency)))

    def _closed_phases(self, load: ClosedLoop) -> Iterator[Phase]:
        """The phase of each request, asked for when it is about to be sent."""
        for _ in range(load.warmup(self._round == 0)):
            yield Phase.WARMUP
        stop = self._stage.stop
        began, count = self._generator.now(), 0
        while True:
            if stop.requests is not None:
                enough = count >= stop.requests
            else:
                late = self._generator.now() - began >= (stop.seconds or 0.0)
                enough = late and count >= load.concurrency
            if enough:
                break
            count += 1
            yield Phase.MEASURED
        self._issued()
        while True:
            yield Phase.COOLDOWN

    async def _open(self, load: OpenLoop, seed: int) -> None:
        seconds = self._stage.stop.seconds
        if seconds is None:
            seconds = (self._stage.stop.requests or 1) / (load.rate + (load.to_rate or load.rate)) * 2
        # A ramp begins with what it begins with; there is nothing before it.
        warmup = 0.0 if load.to_rate is not None else max(MIN_WARMUP_SECONDS, WARMUP_SHARE * seconds)
        slots = _slots(load.limit)
        began = self._generator.now()
        measured = 0
        for at in load.arrivals(seconds, seed):
            phase = Phase.WARMUP if at < warmup else Phase.MEASURED
            num_requests = self._stage.stop.requests
            if measured >= num_requests if num_requests is not None else at >= warmup + seconds:
                phase = Phase.COOLDOWN
                self._issued()
                if at >= warmup + 2 * seconds:  # the queue does not get shorter any more
                    return
            measured += phase is Phase.MEASURED
            await self._send_at(began + at, phase, slots)

    async def _replay(self, load: TraceReplay) -> None:
        slots = _slots(load.limit)
        began = self._generator.now()
        for at in load.times:
            await self._send_at(began + at, Phase.MEASURED, slots)
        self._issued()

    async def _send_at(self, due: float, phase: Phase, slots: asyncio.Semaphore | None) -> None:
        """Start a request when it is due; if that is past, at once, with its latency from when it was due."""
        number, request = self._next()
        delay = due - self._generator.now()
        if delay > 0:
            await asyncio.sleep(delay)

        async def send() -> None:
            async with self._slot(slots, number, request, phase, due):
                await self._send(number, request, phase, due)

        if phase is Phase.MEASURED:
            self._open_measured += 1
        task = asyncio.create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    @asynccontextmanager
    async def _slot(
        self,
        slots: asyncio.Semaphore | None,
        number: int,
        request: BenchmarkRequest,
        phase: Phase,
        due: float,
    ) -> AsyncIterator[None]:
        """Wait for a place among the requests in flight; one that never gets it leaves a record too."""
        if slots is None:
            yield
            return
        try:
            await slots.acquire()
        except asyncio.CancelledError:
            never = "not sent when the stage was over"
            self._keep(
                self._record(
                    number, request, phase, due, self._generator.now(), StreamedResponse(), CANCELLED, never
                )
            )
            raise
        try:
            yield
        finally:
            slots.release()

    def _done(self, task: asyncio.Task[None]) -> None:
        """Forget a request that is over; what broke it, other than the server, ends the stage."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = self._broken or error
            self._over.set()

    def _next(self) -> tuple[int, BenchmarkRequest]:
        number = self._generator.number(self._target)
        return number, self._target.request(number)

    async def _send(self, number: int, request: BenchmarkRequest, phase: Phase, intended: float) -> bool:
        """Send a request and keep its record, however it ends; False if it failed."""
        closed = isinstance(self._stage.load, ClosedLoop)
        if phase is Phase.MEASURED and closed:
            self._open_measured += 1
        answer = StreamedResponse()
        sent = self._generator.now()
        error = message = ""
        try:
            await self._target.server.stream(self._target.name, request, answer)
        except RequestFailed as failure:
            error, message = failure.code, failure.message
        except asyncio.CancelledError:
            error, message = CANCELLED, "not finished when the stage was over"
            raise
        finally:
            record = self._record(number, request, phase, intended, sent, answer, error, message)
            self._keep(record)
        return record.ok

    def _record(
        self,
        number: int,
        request: BenchmarkRequest,
        phase: Phase,
        intended: float,
        sent: float,
        answer: StreamedResponse,
        error: str,
        message: str,
    ) -> RequestRecord:
        if not error and not answer.times:
            error, message = "EMPTY", "the answer had no token"
        began = self._generator.began
        prompt, output = answer.prompt_tokens, answer.output_tokens
        return RequestRecord(
            stage=self._stage.number,
            round=self._round,
            model=self._target.label,
            index=number,
            phase=phase,
            # To the microsecond, as in the file: what is read again is what was reported.
            intended=round(intended, 6),
            sent=round(sent, 6),
            times=tuple(round(at - began, 6) for at in answer.times),
            tokens=tuple(answer.tokens),
            ended=round(self._generator.now(), 6),
            prompt_tokens=request.prompt.tokens if prompt is None else prompt,
            output_tokens=sum(answer.tokens) if output is None else output,
            cached_tokens=answer.cached_tokens,
            engine=answer.engine,
            error=error,
            message=message,
        )

    def _keep(self, record: RequestRecord) -> None:
        self._generator.journal.add(record)
        self._generator.progress(record)
        self._messages += len(record.times)
        if record.ok:
            self._last_success, self._failures = self._generator.now(), 0
        elif record.error != CANCELLED:
            self._failures += 1
            self._consider_giving_up(record)
        if record.phase is Phase.MEASURED:
            self._open_measured -= 1
            self._end_if_done()

    def _consider_giving_up(self, record: RequestRecord) -> None:
        seconds = self._generator.now() - self._last_success
        if self._failures >= 3 and seconds >= ABORT_AFTER_SECONDS and not self._gave_up:
            self._gave_up = True
            self._note(
                "GAVE_UP",
                f"given up after {seconds:.0f} s of nothing but failures "
                f"({self._failures}; last: {record.error}: {record.message})",
            )
            self._over.set()

    def _issued(self) -> None:
        """All measured requests are under way."""
        self._all_issued = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._all_issued and self._open_measured == 0:
            self._over.set()

    def _report(self, seconds: float, cpu_seconds: float, lags: list[float]) -> None:
        p50, p99 = np.percentile(lags or [0.0], [50, 99]) * 1e3
        stage_key = (self._stage.number, self._round, self._target.label)
        self._generator.journal.add(
            GeneratorStats(
                *stage_key,
                round(seconds, 6),
                round(cpu_seconds, 6),
                self._messages,
                round(float(p50), 3),
                round(float(p99), 3),
            )
        )
        if self._generator.stop.is_set():
            self._note("INTERRUPTED", "interrupted before its end")

    def _note(self, kind: str, text: str) -> None:
        stage_key = (self._stage.number, self._round, self._target.label)
        self._generator.journal.add(StageNote(*stage_key, kind, text))


def _slots(limit: int | None) -> asyncio.Semaphore | None:
    return None if limit is None else asyncio.Semaphore(limit)


async def _watch_lag(lags: list[float]) -> None:
    """Note by how much the event loop wakes us late."""
    with suppress(asyncio.CancelledError):
        while True:
            due = time.perf_counter() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            lags.append(max(0.0, time.perf_counter() - due))
