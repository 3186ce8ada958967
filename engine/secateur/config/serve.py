"""The options of `secateur serve`, on the command line and in a configuration file.

models:
  slim: out/slim
listen: 0.0.0.0:50051
tls-cert: /etc/secateur/cert.pem
tls-key: /etc/secateur/key.pem
max-sequences: 32
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secateur.config.address import check_address, is_local
from secateur.config.option import check, option
from secateur.config.sizes import parse_bytes, show_bytes
from secateur.config.values import AUTO, DTYPES, words
from secateur.errors import BadInput

ACCESS, LIMITS, ENGINES, LIFE, OBSERVATION = "Access", "Limits", "Engines", "Life", "Observation"

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What the operator may open to callers without a token; serve/guard/access.py has the services.
PUBLIC_SERVICES = ("health", "reflection")
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's limit is a signed 32-bit number
MAX_CONNECTION_SECONDS = 86400 * 20
LAME_DUCK_SECONDS = 3.0

connection_seconds = partial(option, group=LIFE, max_value=MAX_CONNECTION_SECONDS)
life_seconds = partial(option, group=LIFE, min_value=0, max_value=86400, allowed="0 to 86400")


def parse_models(models: Sequence[str] | Mapping[str, str]) -> dict[str, Path]:
    """Read ``NAME=DIR`` arguments, or the mapping of a configuration file: the folder of each model.

    Raises:
        BadInput: not of that form, or a name given twice.
    """
    if isinstance(models, Mapping):
        models = [f"{name}={folder}" for name, folder in models.items()]
    folders: dict[str, Path] = {}
    for argument in models:
        name, _, folder = argument.partition("=")
        if not folder:
            raise BadInput("models", argument, "give each model as NAME=DIR, for example slim=out/slim")
        if not MODEL_NAME.fullmatch(name):
            raise BadInput("models", argument, "a name is letters, digits, '.', '_' and '-', at most 64")
        if name in folders:
            raise BadInput("models", argument, f"the name {name} was given before")
        folders[name] = Path(folder).expanduser()
    return folders


def show_models(folders: Mapping[str, Path]) -> list[str]:
    """The arguments that `parse_models` reads."""
    return [f"{name}={folder}" for name, folder in folders.items()]


def parse_folders(folders: str | Sequence[str]) -> tuple[Path, ...]:
    """Folders, or text of them with commas between, as absolute paths without symbolic links."""
    parts = words(folders) if isinstance(folders, str) else folders
    return tuple(Path(part).expanduser().resolve() for part in parts)


def parse_folder(folder: str | Path) -> Path:
    return Path(folder).expanduser()


def default_state_dir() -> Path:
    """Where a server keeps its files unless told otherwise, by the XDG rules."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "secateur"


def hide_password(url: str) -> str:
    """A database's URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _require_file(field: str, file: Path | None) -> None:
    if file is not None and not file.is_file():
        raise BadInput(field, file, "no such file")


@dataclass(frozen=True)
class TlsOptions:
    """How connections are encrypted.

    Attributes:
        certificate: PEM file of the server's certificate and those that sign it.
        key: PEM file of its private key.
        client_ca: PEM file of the authorities that sign clients' certificates; with it a client
            without such a certificate is refused. None = clients need none.
    """

    certificate: Path = option(
        name="tls_cert",
        help="Server's certificate (PEM): encrypt connections.",
        group=ACCESS,
        metavar="FILE",
        allowed="`tls_key` and `client_ca` need it",
        is_path=True,
    )
    key: Path = option(
        name="tls_key",
        help="Private key of the certificate (PEM).",
        group=ACCESS,
        metavar="FILE",
        allowed="`tls_cert` needs it",
        is_path=True,
    )
    client_ca: Path | None = option(
        None,
        help="Demand clients' certificates signed by these (PEM).",
        group=ACCESS,
        metavar="FILE",
        is_path=True,
    )

    def __post_init__(self) -> None:
        _require_file("tls_cert", self.certificate)
        _require_file("tls_key", self.key)
        _require_file("client_ca", self.client_ca)


@dataclass(frozen=True)
class LimitOptions:
    """How much clients may ask for; None = as much as they like.

    Attributes:
        rate: calls a second, per caller.
        burst: calls in a row before `rate` tells; None = two seconds' worth.
        calls: calls at the same time.
        calls_per_caller: calls of one caller at the same time.
        first_message_seconds: that a call may take until its first message is here.
        message_bytes: largest gRPC message that clients may send, uncompressed. Reading 4 MiB of the worst
            kind, two million empty messages in one, holds the event loop for 0.3 s.
    """

    rate: float | None = option(
        None, name="rate_limit", help="Calls a second, per caller.", group=LIMITS, min_value=1e-3
    )
    burst: float | None = option(
        None,
        name="rate_burst",
        help="Calls in a row before `rate_limit` tells.",
        group=LIMITS,
        min_value=1,
        default_help="2 s worth",
    )
    calls: int | None = option(
        4096, name="max_calls", help="Calls at the same time.", group=LIMITS, min_value=1
    )
    calls_per_caller: int | None = option(
        1024, name="max_calls_per_caller", help="The same, of one caller.", group=LIMITS, min_value=1
    )
    first_message_seconds: float = option(
        30.0,
        help="Seconds from the begin of a call to its first message.",
        group=LIMITS,
        min_value=0.1,
        max_value=86400,
    )
    message_bytes: int = option(
        4 * 2**20,
        name="max_message",
        help="Largest message from a client.",
        group=LIMITS,
        parse=partial(parse_bytes, "max_message"),
        show=show_bytes,
        in_file=str | int,
        min_value=1024,
        max_value=MAX_MESSAGE_BYTES,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.burst is not None and self.rate is None:
            raise BadInput("rate_burst", self.burst, "means nothing without `rate_limit`")

    @property
    def bucket(self) -> float:
        """Calls in a row that are let through."""
        return self.burst or max(1.0, 2 * (self.rate or 0))


@dataclass(frozen=True)
class EngineOptions:
    """How each engine runs.

    Attributes:
        max_queued: most requests held, computed or waiting; more are refused.
        max_queued_tokens: most prompt tokens held that wait to be computed; None = any number.
        text_processes: most processes per model that lay out conversations and tokenise; one caller has
            all but one of them.
        text_seconds: of processor time that a request may take there.
        dtype: "auto" takes the checkpoint's, and float32 on a CPU that cannot multiply bf16.
        max_model_len: most tokens of prompt and completion together; None = what the model was
            trained for, or less if its keys and values would not fit.
        max_sequences: most requests computed at the same time.
        kv_cache_bytes: room for keys and values, on all devices of a model together; None = a share of the
            memory there is.
        tensor_parallel: devices that share every layer of a model.
        pipeline_parallel: groups of such devices, each of which has some of the layers.
        engines: how many share a GPU's memory; None = one more than are started, so that another can be
            loaded beside them.
        threads: CPU threads per engine; None = a share of the cores there are. Ignored on a GPU.
        compiled: compile the model (torch.compile); None = on a GPU only. On a CPU it costs a minute at
            every start and gains a few percent.
        step_tokens: most tokens computed in one step; None = 512 on a CPU, 2048 on a GPU.
        prefix_caching: reuse keys and values of prompts that begin alike.
        shared_prefix_cache: also those of other callers, who can then find out what was asked before.
        verbose: let vLLM log what it does.
        device_fraction: part of a GPU's memory that an engine was planned to take; no option, a plan sets it.
    """

    max_queued: int = option(
        1024, help="Most requests held per model; more are refused.", group=LIMITS, min_value=1
    )
    max_queued_tokens: int | None = option(
        None, help="Most prompt tokens waiting per model; more are refused.", group=LIMITS, min_value=1
    )
    text_processes: int = option(
        2, help="Processes per model that tokenise.", group=LIMITS, min_value=1, max_value=64
    )
    text_seconds: float = option(
        2.0,
        help="Processor seconds to lay out and tokenise a prompt.",
        group=LIMITS,
        min_value=0.01,
        max_value=600,
    )
    dtype: str = option(
        AUTO,
        help="auto, bfloat16, float16 or float32.",
        group=ENGINES,
        choices=(AUTO, *DTYPES),
        allowed=f"one of {', '.join((AUTO, *DTYPES))}",
    )
    max_model_len: int | None = option(
        None,
        help="Most tokens of prompt and completion.",
        group=ENGINES,
        min_value=2,
        default_help="what fits",
    )
    max_sequences: int = option(
        64, help="Most requests computed at once, per model.", group=ENGINES, min_value=1
    )
    kv_cache_bytes: int | None = option(
        None,
        name="kv_cache_memory",
        help="Room for keys and values per model, for example 512MiB.",
        group=ENGINES,
        parse=partial(parse_bytes, "kv_cache_memory"),
        show=show_bytes,
        in_file=str | int,
        min_value=2**20,
    )
    tensor_parallel: int = option(
        1, help="Devices that share every layer of a model.", group=ENGINES, min_value=1
    )
    pipeline_parallel: int = option(
        1, help="Groups of devices that share the layers out.", group=ENGINES, min_value=1
    )
    engines: int | None = option(
        None,
        help="Engines to share a GPU's memory.",
        group=ENGINES,
        min_value=1,
        default_help="models + 1",
    )
    threads: int | None = option(
        None, help="CPU threads per model.", group=ENGINES, min_value=1, default_help="a share"
    )
    compiled: bool | None = option(
        None, flag="compile", help="Compile models.", group=ENGINES, default_help="on a GPU only"
    )
    step_tokens: int | None = option(
        None,
        help="Most tokens of one step: more is faster, fewer keep others waiting less.",
        group=ENGINES,
        min_value=32,
        default_help="512 on a CPU, 2048 on a GPU",
    )
    prefix_caching: bool = option(True, help="Reuse work on prompts that begin alike.", group=ENGINES)
    shared_prefix_cache: bool = option(
        False, help="Reuse it between callers too, who can then tell what others asked.", group=ENGINES
    )
    verbose: bool = option(False, short="-v", help="Show what vLLM logs.", group=OBSERVATION)
    device_fraction: float | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def ranks(self) -> int:
        """Processes that compute a model together, each with a device of its own."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True)
class KeepaliveOptions:
    """How long connections live.

    Attributes:
        keepalive: seconds without a sign of life before the server pings; a client that does not answer
            within `keepalive_timeout` is gone, and its requests with it.
        max_age: seconds after which a client is asked to connect anew, which spreads clients over
            servers behind a load balancer; None = never.
        max_age_grace: seconds that calls on such a connection may go on.
    """

    keepalive: float = connection_seconds(
        60.0,
        help="Seconds of silence before a client is pinged.",
        min_value=1,
        allowed="seconds, at least 1",
    )
    keepalive_timeout: float = connection_seconds(
        20.0, help="Seconds it has to answer.", min_value=1, allowed="seconds, at least 1"
    )
    max_age: float | None = connection_seconds(
        None,
        name="max_connection_age",
        help="Seconds until clients are asked to connect anew.",
        min_value=1,
        allowed="seconds, at least 1",
    )
    max_age_grace: float = connection_seconds(
        600.0,
        name="max_connection_age_grace",
        help="Seconds that their running calls may go on.",
        min_value=0,
        allowed="seconds, at least 0",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ObserveOptions:
    """What the server tells about itself.

    Attributes:
        metrics: ``HOST:PORT`` where Prometheus finds them; None = nowhere.
        traces: URL that takes OpenTelemetry traces over OTLP/gRPC; None = none are made.
    """

    metrics: str | None = option(
        None, help="Answer Prometheus there.", group=OBSERVATION, metavar="HOST:PORT"
    )
    traces: str | None = option(
        None, help="Send OpenTelemetry traces there (OTLP/gRPC).", group=OBSERVATION, metavar="URL"
    )
    log_json: bool = option(False, help="Log JSON objects.", group=OBSERVATION)
    log_calls: bool = option(False, help="Log a line per call.", group=OBSERVATION)


@dataclass(frozen=True)
class JobOptions:
    """How prune jobs run.

    Attributes:
        concurrency: jobs at the same time; the others wait.
        attempts: how often a job's process is started before the job has failed.
        back_off_seconds: wait before the second attempt; each further wait is four times as long.
        nice: how much jobs stand back for the server, 0 to 19.
    """

    concurrency: int = option(
        1, name="jobs", help="Prune jobs at the same time; the others wait.", group=LIFE, min_value=1
    )
    attempts: int = 3
    back_off_seconds: float = 2.0
    nice: int = 10

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ServeOptions:
    """The whole command.

    Attributes:
        models: the checkpoint folder of each model to serve, by the name that clients use.
        listen: ``HOST:PORT`` (port 0 = any free one) or ``unix:PATH``.
        state_dir: folder for what the server must not forget: its database, its jobs' files.
        state: URL of the database; empty = a file in `state_dir`.
        roots: folders below which clients may name checkpoints and outputs; none = clients may name none.
        tls: None = nothing is encrypted.
        insecure: allow an address that other machines can reach, although nothing is encrypted.
        tokens: file of those who may call (`serve.guard.callers`); None = everyone.
        open_to_all: what needs no token even so, of `PUBLIC_SERVICES`.
        reflection: clients may ask which services there are.
        channelz: administrators may see connections, their streams and sockets.
        lame_duck_seconds: how long new calls are still answered after the first Ctrl-C or SIGTERM, while
            health says NOT_SERVING and load balancers take note; None = 3 where other machines can reach
            the server, else 0.
        drain_seconds: how long running requests may go on after that, and those of an unloaded version.
        keep_seconds: how long a version that was replaced stays loaded for a rollback.

    Raises:
        BadInput: naming the option that is out of its range, does not fit the others, or names what does
            not exist.
    """

    models: Mapping[str, Path] = option(
        default_factory=dict,
        help="Name for clients, and checkpoint folder.",
        positional=True,
        repeatable=True,
        metavar="NAME=DIR...",
        parse=parse_models,
        show=show_models,
        in_file=dict[str, str],
        is_path=True,
    )
    listen: str = option("127.0.0.1:50051", help="HOST:PORT (port 0: any free one) or unix:PATH.")
    state_dir: Path = option(
        default_factory=default_state_dir,
        help="Server's own files.",
        metavar="DIR",
        parse=parse_folder,
        in_file=str,
        is_path=True,
        default_help="~/.local/state/secateur",
    )
    state: str = option(
        "",
        help="Database of models and jobs.",
        metavar="URL",
        redact=hide_password,
        default_help="SQLite in `state_dir`",
    )
    roots: tuple[Path, ...] = option(
        (),
        help="Folders below which clients may name files.",
        metavar="DIR,...",
        parse=parse_folders,
        in_file=list[str],
        is_path=True,
    )
    tls: TlsOptions | None = None
    insecure: bool = option(
        False, help="Allow an address other machines can reach, unencrypted.", group=ACCESS
    )
    tokens: Path | None = option(
        None, help="Who may call (see secateur token).", group=ACCESS, metavar="FILE", is_path=True
    )
    open_to_all: tuple[str, ...] = option(
        ("health",),
        flag="open",
        help="What needs no token: health, reflection, or both.",
        group=ACCESS,
        metavar="LIST",
        choices=PUBLIC_SERVICES,
        allowed=f"a list of {', '.join(PUBLIC_SERVICES)}, or nothing",
    )
    reflection: bool = option(True, help="Let clients ask which services there are.", group=ACCESS)
    channelz: bool = option(False, help="Let administrators see connections and sockets.", group=ACCESS)
    limits: LimitOptions = LimitOptions()
    engine: EngineOptions = EngineOptions()
    connections: KeepaliveOptions = KeepaliveOptions()
    lame_duck_seconds: float | None = life_seconds(
        None,
        help="How long new calls are answered after SIGTERM, while health says NOT_SERVING.",
        default_help=f"{LAME_DUCK_SECONDS:g}; on an address of this machine 0",
    )
    drain_seconds: float = life_seconds(30.0, help="How long running requests may go on after that.")
    keep_seconds: float = life_seconds(600.0, help="How long a replaced version stays loaded for a rollback.")
    jobs: JobOptions = JobOptions()
    observe: ObserveOptions = ObserveOptions()

    def __post_init__(self) -> None:
        check(self)
        if not self.models:
            raise BadInput("models", "nothing", "at least one model")
        for name, folder in self.models.items():
            if not folder.is_dir():
                raise BadInput("models", f"{name}={folder}", "no such folder")
        consent = self.insecure or self.tls is not None
        check_address("listen", self.listen, consent)
        if self.observe.metrics is not None:
            check_address("metrics", self.observe.metrics, consent, unix=False)
        for root in self.roots:
            if not root.is_dir():
                raise BadInput("roots", root, "no such folder")
        if self.tokens is not None and self.tls is None and not is_local(self.listen):
            allowed = "would be readable on the way: add `tls_cert` and `tls_key`"
            raise BadInput("tokens", self.tokens, allowed)
        _require_file("tokens", self.tokens)

    @property
    def state_url(self) -> str:
        """URL of the database of models and jobs."""
        return self.state or f"sqlite:///{self.state_dir.absolute()}/server.db"

    @property
    def lame_duck(self) -> float:
        """Seconds between health turning NOT_SERVING and the first refusal."""
        if self.lame_duck_seconds is not None:
            return self.lame_duck_seconds
        return 0.0 if is_local(self.listen) else LAME_DUCK_SECONDS
