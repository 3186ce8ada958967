"""The options of `secateur bench`; a server's clients may give some of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.config.connection import DEFAULT_TARGET, TARGET_VARIABLE
from secateur.config.option import check, declaration, option
from secateur.config.values import DTYPES, as_text
from secateur.errors import BadInput

OFFLINE = "Without a server"

ARRIVALS = ("poisson", "constant")
LOADS = ("concurrency", "rate", "ramp", "sweep", "trace")
DEFAULT_SECONDS = 30.0
COMPARISON_ROUNDS, OFFLINE_ROUNDS = 6, 9
DECODE_STEPS = 12  # of a turn without a server; the first finds cold caches and is not counted

SLO_METRICS = ("ttft", "tpot", "e2el")
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}

# MLPerf Inference, limits of the 99th percentile for the Server and Interactive scenarios; milliseconds.
SLO_PRESETS: Mapping[str, Mapping[str, float]] = {
    "mlperf-llama3.1-8b": {"ttft": 2000, "tpot": 100},
    "mlperf-llama3.1-8b-interactive": {"ttft": 500, "tpot": 30},
    "mlperf-llama2-70b": {"ttft": 2000, "tpot": 200},
    "mlperf-llama2-70b-interactive": {"ttft": 450, "tpot": 40},
    "mlperf-llama3.1-405b": {"ttft": 6000, "tpot": 175},
    "mlperf-llama3.1-405b-interactive": {"ttft": 4500, "tpot": 80},
}

ADDRESS_FORMS = "HOST:PORT (secateur), oip://HOST:PORT (Open Inference Protocol) or http://HOST:PORT (OpenAI)"
_ADDRESSES = (
    re.compile(r"https?://[^\s/]+(/\S*)?"),
    re.compile(r"unix:\S+"),
    re.compile(r"(oip://)?(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}"),
)


def parse_slo(text: Any) -> Mapping[str, float]:
    """Milliseconds by metric, of ``ttft=500ms,tpot=50ms`` or a preset's name; a mapping is taken as it is.

    Raises:
        BadInput: neither.
    """
    if isinstance(text, Mapping):
        return dict(text)
    if text in SLO_PRESETS:
        return SLO_PRESETS[text]
    limits: dict[str, float] = {}
    for part in text.split(","):
        metric, _, limit = part.strip().partition("=")
        time = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", limit.strip())
        if metric not in SLO_METRICS or time is None or float(time[1]) <= 0:
            allowed = (
                f"METRIC=TIME with {', '.join(SLO_METRICS)} and us, ms or s; or {', '.join(SLO_PRESETS)}"
            )
            raise BadInput("slo", text, allowed)
        if metric in limits:
            raise BadInput("slo", text, f"{metric} is given twice")
        limits[metric] = float(time[1]) * MILLISECONDS[time[2]]
    return limits


def show_slo(limits: Mapping[str, float]) -> str:
    """The text that `parse_slo` reads."""
    return ",".join(f"{metric}={limit}ms" for metric, limit in limits.items())


def parse_ramp(text: Any) -> tuple[float, ...]:
    """Read ``FROM:TO``; a list of both is taken as it is.

    Raises:
        BadInput: neither.
    """
    if text == []:
        return ()
    try:
        rates = tuple(map(float, text.split(":") if isinstance(text, str) else text))
    except ValueError:
        rates = ()
    if len(rates) != 2:
        raise BadInput("ramp", text, "FROM:TO, requests per second")
    return rates


def check_target(name: str, address: str) -> None:
    """Refuse what no server's address can be.

    Args:
        name: of the option that gives it.

    Raises:
        BadInput: says which forms there are.
    """
    if not any(form.fullmatch(address) for form in _ADDRESSES):
        raise BadInput(name, address, ADDRESS_FORMS)


@dataclass(frozen=True)
class BenchmarkTargetSpec:
    """A model of a server; an empty name is its only, or default, one."""

    name: str
    address: str


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, under which load, and how long.

    Raises:
        BadInput: naming the option that is out of its range, or does not fit the others.
    """

    target: str = option(
        DEFAULT_TARGET,
        help="HOST:PORT of secateur serve, oip://HOST:PORT (Open Inference Protocol), "
        "http://HOST:PORT (OpenAI).",
        envvar=TARGET_VARIABLE,
    )
    model: str = option(
        "", help="Model to measure.", default_help="the server's only or default model", message_field="model"
    )
    compare: tuple[str, ...] = option(
        (),
        help="Also measure this model, in turns with the first; repeatable.",
        metavar="MODEL[@TARGET]",
        repeatable=True,
        message_field="compare",
    )
    concurrency: tuple[int, ...] = option(
        (),
        help="Closed loop: this many clients, for example 1,4,16.",
        default_help="1",
        min_value=1,
        max_value=4096,
        allowed="above 0, at most 4096",
        message_field="closed.concurrencies",
    )
    rate: tuple[float, ...] = option(
        (),
        help="Open loop: this many requests per second, for example 2,4,8.",
        above=0,
        max_value=1e5,
        message_field="open.rates",
    )
    ramp: tuple[float, ...] = option(
        (),
        help="Open loop whose rate goes from one to the other: requests per second.",
        metavar="FROM:TO",
        parse=parse_ramp,
        above=0,
        max_value=1e5,
    )
    trace: Path | None = option(
        None,
        help="Replay requests of a JSONL file: timestamp (ms), input_length, output_length.",
        is_path=True,
    )
    sweep: bool = option(
        False, help="Double the clients until throughput no longer grows, then try rates near its maximum."
    )
    arrivals: str = option(
        "poisson",
        help="Arrivals of an open loop: poisson or constant.",
        choices=ARRIVALS,
        allowed="poisson or constant",
    )
    max_concurrency: int | None = option(
        None,
        help="Maximum of requests in flight in an open loop; further ones wait in the client.",
        min_value=1,
    )
    seconds: float | None = option(
        None,
        help="How long to measure each load.",
        default_help="30",
        above=0,
        max_value=86400,
        message_max=3600,
        message_field="seconds",
    )
    requests: int | None = option(
        None, help="How many requests of each load to measure, instead of `seconds`.", min_value=1
    )
    rounds: int = option(
        None,
        help="Turns of each model per load.",
        default_help="1; 6 with `compare`; 9 with `offline`",
        min_value=1,
        message_max=100,
        message_field="rounds",
    )
    input_len: int = option(
        256, help="Tokens of each prompt.", min_value=1, message_max=2**20, message_field="input_tokens"
    )
    output_len: int = option(
        64, help="Tokens of each answer.", min_value=1, message_max=2**20, message_field="output_tokens"
    )
    stop_at_eos: bool = option(False, help="Let the model end its answers early.")
    corpus: str = option(
        "", help="Take prompts from this text instead of random words: file, folder or pydoc."
    )
    slo: Mapping[str, float] | None = option(
        None,
        help="Limits that a good request stays within: ttft=500ms,tpot=50ms or a preset such as "
        "mlperf-llama3.1-8b.",
        parse=parse_slo,
        show=show_slo,
        message_field="slo",
    )
    checkpoint: tuple[str, ...] = option(
        (),
        help="Checkpoint folder of a model, to report its size and perplexity; repeatable.",
        metavar="MODEL=DIR",
        repeatable=True,
    )
    seed: int = option(0, help="Seed for prompts and arrivals.", min_value=0)
    offline: tuple[str, ...] = option(
        (),
        help="Time this checkpoint in the engine, and compare with the limits of the machine; repeatable.",
        group=OFFLINE,
        metavar="[NAME=]DIR",
        repeatable=True,
    )
    batch: tuple[int, ...] = option(
        (1, 8, 32),
        help="Batch sizes.",
        group=OFFLINE,
        min_value=1,
        max_value=1024,
        allowed="1 to 1024",
    )
    context: int = option(
        256,
        help="Context length while decoding, in tokens.",
        group=OFFLINE,
        min_value=DECODE_STEPS,
    )
    threads: int | None = option(None, help="Threads of the engine, on a CPU.", group=OFFLINE, min_value=1)
    dtype: str = option("bfloat16", help="Data type of the weights.", group=OFFLINE, choices=DTYPES)
    out: Path | None = option(
        None, help="Folder to create for records, report.json and report.html.", is_path=True
    )
    records: Path | None = option(
        None,
        help="Measure nothing: report on the records.jsonl of an earlier benchmark.",
        flag="from",
        is_path=True,
    )

    def __post_init__(self) -> None:
        if vars(self)["rounds"] is None:
            rounds = OFFLINE_ROUNDS if self.offline else COMPARISON_ROUNDS if self.compare else 1
            object.__setattr__(self, "rounds", rounds)
        check(self)
        self._check_load()
        labels, _ = self.labels, self.folders  # which raise where they cannot be read
        for label, folder in self.checkpoints.items():
            if label not in labels:
                allowed = f"MODEL=DIR, MODEL being one of {', '.join(labels)}"
                raise BadInput("checkpoint", f"{label}={folder}", allowed)

    def _check_load(self) -> None:
        kinds = [name for name in LOADS if getattr(self, name)]
        if len(kinds) > 1 and kinds != ["concurrency", "trace"]:  # clients may work through a trace
            value = as_text(declaration(type(self), kinds[1]), getattr(self, kinds[1]))
            raise BadInput(kinds[1], value, f"not together with `{kinds[0]}`: one kind of load at a time")
        if self.seconds is not None and self.requests is not None:
            raise BadInput("seconds", self.seconds, "give either `seconds` or `requests`")

    @property
    def targets(self) -> tuple[BenchmarkTargetSpec, ...]:
        """The model, and those compared with it.

        Raises:
            BadInput: one twice, or an address that is none.
        """
        check_target("target", self.target)
        targets = [BenchmarkTargetSpec(self.model, self.target)]
        for text in self.compare:
            name, _, address = text.partition("@")
            target = BenchmarkTargetSpec(name, address or self.target)
            check_target("compare", target.address)
            if target in targets:
                raise BadInput("compare", text, "is compared with itself; give another model or target")
            targets.append(target)
        return tuple(targets)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the targets, in reports: their names; with their address where names are alike."""
        names = [target.name or "default" for target in self.targets]
        return tuple(
            name if names.count(name) == 1 else f"{name}@{target.address}"
            for name, target in zip(names, self.targets, strict=True)
        )

    @property
    def checkpoints(self) -> dict[str, Path]:
        """Folders by the label of their model.

        Raises:
            BadInput: not of the form ``MODEL=DIR``, or no such folder.
        """
        folders: dict[str, Path] = {}
        for text in self.checkpoint:
            label, _, folder = text.partition("=")
            if not label or not folder:
                raise BadInput("checkpoint", text, "MODEL=DIR, for example slim=out/slim")
            folders[label] = _folder("checkpoint", text, folder)
        return folders

    @property
    def folders(self) -> dict[str, Path]:
        """Checkpoints that are timed without a server, by the names they have in reports.

        Raises:
            BadInput: no such folder, or a name twice.
        """
        folders: dict[str, Path] = {}
        for text in self.offline:
            name, separator, folder = text.partition("=")
            path = _folder("offline", text, folder if separator else text)
            name = name if separator else path.absolute().name
            if name in folders:
                raise BadInput("offline", text, f"{name} is there already: give NAME=DIR")
            folders[name] = path
        return folders


def _folder(name: str, text: str, folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise BadInput(name, text, "no such folder")
    return path
