"""What `secateur bench` was asked to do, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.bench.load.stage import ClosedLoop, LoadPattern, OpenLoop, StopCondition, TraceReplay
from secateur.bench.load.trace import TraceEntry, read_trace
from secateur.bench.metrics.slo import LatencySlo
from secateur.bench.targets.registry import check_address, endpoint_of
from secateur.client.endpoint import Endpoint
from secateur.errors import BadInput

MAX_CONCURRENCY = 4096
MAX_REQUEST_RATE = 1e5
COMPARISON_ROUNDS = 6
SECONDS = 30.0
DEFAULT_STOP_CONDITION = StopCondition(seconds=SECONDS)


@dataclass(frozen=True)
class BenchmarkTargetSpec:
    """A model of a server; an empty name is its only, or default, one."""

    name: str
    address: str


@dataclass(frozen=True)
class BenchOptions:
    """The whole command.

    Attributes:
        subjects: what is measured; more than one take turns.
        loads: one after another.
        extent: of each of them, over all rounds together.
        sweep: find the loads by themselves, up to saturation.
        input_tokens, output_tokens: lengths, where there is no trace that says them.
        ignore_eos: whether every answer has its full length.
        corpus: where prompts are cut from; "" = made up from words of a text.
        trace: its entries; empty = none.
        rounds: how often the subjects take turns under each load.
        slo: what a good request reaches.
        seed: of prompts and arrivals.
        access: how servers are called, whichever; None = unencrypted, without a token.
        checkpoints: folder of a model by its label, for its size and perplexity.
    """

    subjects: tuple[BenchmarkTargetSpec, ...]
    loads: tuple[LoadPattern, ...] = (ClosedLoop(1),)
    extent: StopCondition = DEFAULT_STOP_CONDITION
    sweep: bool = False
    input_tokens: int = 256
    output_tokens: int = 64
    ignore_eos: bool = True
    corpus: str = ""
    trace: tuple[TraceEntry, ...] = field(default=(), repr=False)
    rounds: int = 1
    slo: LatencySlo | None = None
    seed: int = 0
    access: Endpoint = field(default_factory=lambda: Endpoint("localhost:0"), repr=False)
    checkpoints: tuple[tuple[str, Path], ...] = ()

    def __post_init__(self) -> None:
        for spec in self.subjects:
            check_address("target", spec.address)
            endpoint_of(spec.address, self.access)
        if not self.subjects:
            raise BadInput("model", "nothing", "at least one")
        for option, value, least in (
            ("input_len", self.input_tokens, 1),
            ("output_len", self.output_tokens, 1),
            ("rounds", self.rounds, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise BadInput(option, value, f"at least {least}")
        for label, folder in self.checkpoints:
            if label not in self.labels:
                known = ", ".join(self.labels)
                raise BadInput("checkpoint", f"{label}={folder}", f"MODEL=DIR, MODEL being one of {known}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the subjects, in reports: their names; with their address where names are alike."""
        names = [spec.name or "default" for spec in self.subjects]
        return tuple(
            name if names.count(name) == 1 else f"{name}@{spec.address}"
            for name, spec in zip(names, self.subjects, strict=True)
        )

    def shares(self, load: LoadPattern) -> list[StopCondition]:
        """What is measured of a load in each round; together the extent.

        Fewer requests than rounds make fewer rounds. A trace is replayed whole in each.
        """
        if isinstance(load, TraceReplay):
            return [StopCondition(requests=len(load.times))] * self.rounds
        if self.extent.requests is None:
            return [StopCondition(seconds=(self.extent.seconds or SECONDS) / self.rounds)] * self.rounds
        each, more = divmod(self.extent.requests, self.rounds)
        counts = [each + (number < more) for number in range(self.rounds)]
        return [StopCondition(requests=count) for count in counts if count]

    def to_json(self) -> dict[str, Any]:
        """As in reports; no secrets."""
        return {
            "subjects": [asdict(spec) for spec in self.subjects],
            "loads": [load.to_json() for load in self.loads],
            "extent": asdict(self.extent),
            "sweep": self.sweep,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "ignore_eos": self.ignore_eos,
            "corpus": self.corpus,
            "trace_requests": len(self.trace),
            "rounds": self.rounds,
            "slo": self.slo and self.slo.to_json(),
            "timeout": self.access.timeout,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class LoadArguments:
    """The load as it was typed."""

    concurrency: str | None = None
    rate: str | None = None
    ramp: str | None = None
    trace: Path | None = None
    sweep: bool = False
    arrivals: str = "poisson"
    max_concurrency: int | None = None
    seconds: float | None = None
    requests: int | None = None


def parse_loads(
    typed: LoadArguments,
) -> tuple[tuple[LoadPattern, ...], StopCondition, tuple[TraceEntry, ...]]:
    """Loads, how much of each, and the trace.

    Raises:
        BadInput: a number out of range, or options that exclude each other.
    """
    kinds = {
        "concurrency": typed.concurrency,
        "rate": typed.rate,
        "ramp": typed.ramp,
        "sweep": typed.sweep or None,
        "trace": typed.trace,
    }
    given = [option for option, value in kinds.items() if value is not None]
    if len(given) > 1 and given != ["concurrency", "trace"]:  # clients may work through a trace
        raise BadInput(given[1], kinds[given[1]], f"not together with {given[0]}: one kind of load at a time")
    if typed.arrivals not in ("poisson", "constant"):
        raise BadInput("arrivals", typed.arrivals, "poisson or constant")
    if typed.max_concurrency is not None and typed.max_concurrency < 1:
        raise BadInput("max_concurrency", typed.max_concurrency, "at least 1")
    entries = read_trace(typed.trace) if typed.trace else ()
    return _loads(typed, entries), _extent(typed, entries), entries


def _loads(typed: LoadArguments, entries: Sequence[TraceEntry]) -> tuple[LoadPattern, ...]:
    poisson, limit = typed.arrivals == "poisson", typed.max_concurrency
    if typed.rate is not None:
        rates = _numbers("rate", typed.rate, MAX_REQUEST_RATE)
        return tuple(OpenLoop(rate, None, poisson, limit) for rate in rates)
    if typed.ramp is not None:
        ends = _numbers("ramp", typed.ramp.replace(":", ","), MAX_REQUEST_RATE)
        if len(ends) != 2:
            raise BadInput("ramp", typed.ramp, "FROM:TO, requests per second")
        return (OpenLoop(ends[0], ends[1], poisson, limit),)
    if entries and entries[0].at is not None and typed.concurrency is None:
        return (TraceReplay(tuple(entry.at or 0.0 for entry in entries), limit),)
    if typed.sweep:
        return ()
    levels = _numbers("concurrency", typed.concurrency or "1", MAX_CONCURRENCY)
    if any(level != int(level) for level in levels):
        raise BadInput("concurrency", typed.concurrency, "whole numbers, for example 1,4,16")
    return tuple(ClosedLoop(int(level)) for level in levels)


def _extent(typed: LoadArguments, entries: Sequence[TraceEntry]) -> StopCondition:
    if typed.seconds is not None and typed.requests is not None:
        raise BadInput("seconds", typed.seconds, "give either `seconds` or `requests`")
    if typed.requests is not None and typed.requests < 1:
        raise BadInput("requests", typed.requests, "at least 1")
    if typed.seconds is not None and not 0 < typed.seconds <= 86400:
        raise BadInput("seconds", typed.seconds, "above 0, at most 86400")
    if typed.seconds is None and typed.requests is None:
        return StopCondition(requests=len(entries)) if entries else DEFAULT_STOP_CONDITION
    return StopCondition(typed.seconds, typed.requests)


def _numbers(option: str, text: str, most: float) -> Sequence[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(option, text, "numbers separated by commas") from None
    for value in values:
        if not 0 < value <= most:  # neither is what is not a number
            raise BadInput(option, text, f"above 0, at most {most:g}")
    return values


def parse_targets(target: str, model: str, compare: Sequence[str]) -> tuple[BenchmarkTargetSpec, ...]:
    """Read `target`, `model` and every `compare`, ``MODEL[@TARGET]``.

    Raises:
        BadInput: one twice, or an address that is none.
    """
    subjects = [BenchmarkTargetSpec(model, target)]
    for text in compare:
        name, _, address = text.partition("@")
        subjects.append(BenchmarkTargetSpec(name, address or target))
    for place, spec in enumerate(subjects):
        check_address("compare" if place else "target", spec.address)
        if spec in subjects[:place]:
            raise BadInput(
                "compare", compare[place - 1], "is compared with itself; give another model or target"
            )
    return tuple(subjects)


def parse_checkpoints(arguments: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Read `checkpoint`, ``MODEL=DIR``.

    Raises:
        BadInput: not of that form, or no such folder.
    """
    found = []
    for argument in arguments:
        label, _, folder = argument.partition("=")
        path = Path(folder).expanduser()
        if not label or not folder:
            raise BadInput("checkpoint", argument, "MODEL=DIR, for example slim=out/slim")
        if not path.is_dir():
            raise BadInput("checkpoint", argument, "no such folder")
        found.append((label, path))
    return tuple(found)
