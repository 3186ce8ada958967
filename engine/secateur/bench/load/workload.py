"""Which loads a benchmark runs, and how long each."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.bench.load.stage import ClosedLoop, LoadPattern, OpenLoop, StopCondition, TraceReplay
from secateur.bench.load.trace import TraceEntry, read_trace
from secateur.config.bench import DEFAULT_SECONDS, BenchOptions


@dataclass(frozen=True)
class Workload:
    """Loads, one after another, under each of which the targets take turns.

    Attributes:
        loads: empty where a sweep finds them.
        stop: of each load, over all rounds together.
        trace: its entries; empty where there is none.
    """

    loads: tuple[LoadPattern, ...]
    stop: StopCondition
    rounds: int
    trace: tuple[TraceEntry, ...] = ()

    def shares(self, load: LoadPattern) -> list[StopCondition]:
        """What is measured of a load in each round.

        Fewer requests than rounds make fewer rounds. A trace is replayed whole in each.
        """
        if isinstance(load, TraceReplay):
            return [StopCondition(requests=len(load.times))] * self.rounds
        if self.stop.requests is None:
            return [StopCondition(seconds=(self.stop.seconds or DEFAULT_SECONDS) / self.rounds)] * self.rounds
        each, more = divmod(self.stop.requests, self.rounds)
        counts = [each + (number < more) for number in range(self.rounds)]
        return [StopCondition(requests=count) for count in counts if count]


def read_workload(options: BenchOptions) -> Workload:
    """The workload that options describe.

    Raises:
        BadInput: the trace cannot be read.
    """
    trace = read_trace(options.trace) if options.trace else ()
    if options.seconds is None and options.requests is None:
        stop = StopCondition(requests=len(trace)) if trace else StopCondition(seconds=DEFAULT_SECONDS)
    else:
        stop = StopCondition(options.seconds, options.requests)
    return Workload(_loads(options, trace), stop, options.rounds, trace)


def _loads(options: BenchOptions, trace: tuple[TraceEntry, ...]) -> tuple[LoadPattern, ...]:
    poisson, limit = options.arrivals == "poisson", options.max_concurrency
    if options.rate:
        return tuple(OpenLoop(rate, None, poisson, limit) for rate in options.rate)
    if options.ramp:
        return (OpenLoop(options.ramp[0], options.ramp[1], poisson, limit),)
    if trace and trace[0].at is not None and not options.concurrency:
        return (TraceReplay(tuple(entry.at or 0.0 for entry in trace), limit),)
    if options.sweep:
        return ()
    return tuple(ClosedLoop(concurrency) for concurrency in options.concurrency or (1,))
