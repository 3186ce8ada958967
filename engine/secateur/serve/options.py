"""What `secateur serve` was asked to do, checked before anything heavy happens."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from secateur.errors import BadInput, UnsupportedModel

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DTYPES = ("auto", "bfloat16", "float16", "float32")
# What the operator may open to callers without a token; guard/scopes.py has the services.
PUBLIC_SERVICES = ("health", "reflection")
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's limit is a signed 32-bit number
LAME_DUCK_SECONDS = 3.0
UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class ModelSpec:
    """A model to serve: the name clients use, and its checkpoint folder."""

    name: str
    folder: Path


@dataclass(frozen=True)
class EngineOptions:
    """How each engine runs.

    Attributes:
        dtype: one of `DTYPES`; "auto" takes the checkpoint's.
        max_model_len: most tokens of prompt and completion together; None = what the model was
            trained for, or less if its keys and values would not fit.
        max_sequences: most requests computed at the same time.
        max_queued: most requests held, computed or waiting; more are refused.
        max_queued_tokens: most prompt tokens held that wait to be computed; None = any number.
        kv_cache_bytes: room for keys and values; None = a share of the memory there is.
        threads: CPU threads per engine; None = a share of the cores there are. Ignored on a GPU.
        compiled: compile the model (torch.compile); None = on a GPU only. On a CPU it costs a minute at
            every start and gains a few percent.
        prefix_caching: reuse keys and values of prompts that begin alike.
        verbose: let vLLM log what it does.
    """

    dtype: str = "auto"
    max_model_len: int | None = None
    max_sequences: int = 64
    max_queued: int = 1024
    max_queued_tokens: int | None = None
    kv_cache_bytes: int | None = None
    threads: int | None = None
    compiled: bool | None = None
    prefix_caching: bool = True
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadInput("dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        for option, value, least in (
            ("max_model_len", self.max_model_len, 2),
            ("max_sequences", self.max_sequences, 1),
            ("max_queued", self.max_queued, 1),
            ("max_queued_tokens", self.max_queued_tokens, 1),
            ("kv_cache_memory", self.kv_cache_bytes, 2**20),
            ("threads", self.threads, 1),
        ):
            if value is not None and value < least:
                raise BadInput(option, value, f"at least {least}")


@dataclass(frozen=True)
class TlsOptions:
    """How connections are encrypted.

    Attributes:
        certificate: PEM file of the server's certificate and those that sign it.
        key: PEM file of its private key.
        client_ca: PEM file of the authorities that sign clients' certificates; with it a client
            without such a certificate is refused. None = clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        for name, file in (
            ("tls_cert", self.certificate),
            ("tls_key", self.key),
            ("client_ca", self.client_ca),
        ):
            if file is not None and not file.is_file():
                raise BadInput(name, file, "no such file")


@dataclass(frozen=True)
class LimitOptions:
    """How much clients may ask for; None = as much as they like.

    Attributes:
        rate: calls a second, per caller.
        burst: calls in a row before `rate` tells; None = two seconds' worth.
        calls_per_caller: calls of one caller at the same time.
        calls: calls at the same time.
        message_bytes: largest gRPC message, either way.
    """

    rate: float | None = None
    burst: float | None = None
    calls_per_caller: int | None = None
    calls: int | None = 4096
    message_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        for option, value, least in (
            ("rate_limit", self.rate, 1e-3),
            ("rate_burst", self.burst, 1),
            ("max_calls_per_caller", self.calls_per_caller, 1),
            ("max_calls", self.calls, 1),
            ("max_message", self.message_bytes, 1024),
        ):
            if value is not None and value < least:
                raise BadInput(option, value, f"at least {least}")
        if self.message_bytes > MAX_MESSAGE_BYTES:
            raise BadInput("max_message", self.message_bytes, f"at most {MAX_MESSAGE_BYTES}")
        if self.burst is not None and self.rate is None:
            raise BadInput("rate_burst", self.burst, "means nothing without `rate_limit`")

    @property
    def bucket(self) -> float:
        """Calls in a row that are let through."""
        return self.burst or max(1.0, 2 * (self.rate or 0))


@dataclass(frozen=True)
class ConnectionOptions:
    """How long connections live.

    Attributes:
        keepalive: seconds without a sign of life before the server pings; a client that does not answer
            within `keepalive_timeout` is gone, and its requests with it.
        max_age: seconds after which a client is asked to connect anew, which spreads clients over
            servers behind a load balancer; None = never.
        max_age_grace: seconds that calls on such a connection may go on.
    """

    keepalive: float = 60.0
    keepalive_timeout: float = 20.0
    max_age: float | None = None
    max_age_grace: float = 600.0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("keepalive", self.keepalive, 1),
            ("keepalive_timeout", self.keepalive_timeout, 1),
            ("max_connection_age", self.max_age, 1),
            ("max_connection_age_grace", self.max_age_grace, 0),
        ):
            if value is not None and not least <= value <= 86400 * 20:
                raise BadInput(option, value, f"seconds, at least {least}")


@dataclass(frozen=True)
class ObserveOptions:
    """What the server tells about itself.

    Attributes:
        metrics: ``HOST:PORT`` where Prometheus finds them; None = nowhere.
        traces: URL that takes OpenTelemetry traces over OTLP/gRPC; None = none are made.
        log_json: log lines are JSON objects.
        log_calls: a log line for every call.
    """

    metrics: str | None = None
    traces: str | None = None
    log_json: bool = False
    log_calls: bool = False


def state_folder() -> Path:
    """Return where a server keeps its files unless told otherwise, by the XDG rules."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "secateur"


@dataclass(frozen=True)
class JobOptions:
    """How prune jobs run.

    Attributes:
        concurrency: jobs at the same time; the others wait.
        attempts: how often a job's process is started before the job has failed.
        back_off_seconds: wait before the second attempt; each further wait is four times as long.
        nice: how much jobs stand back for the server, 0 to 19.
    """

    concurrency: int = 1
    attempts: int = 3
    back_off_seconds: float = 2.0
    nice: int = 10

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise BadInput("jobs", self.concurrency, "at least 1")


@dataclass(frozen=True)
class ServeOptions:
    """The whole command.

    Attributes:
        models: what to serve; names are unique.
        listen: ``HOST:PORT`` (port 0 = any free one) or ``unix:PATH``.
        insecure: allow an address that other machines can reach, although nothing is encrypted.
        state_dir: folder for what the server must not forget: its database, its jobs' files.
        state: URL of the database; empty = a file in ``state_dir``.
        roots: folders below which clients may name checkpoints and outputs; none = clients may name none.
        tls: None = nothing is encrypted.
        tokens: file of those who may call (`guard.callers`); None = everyone.
        open_to_all: what needs no token even so: keys of `guard.scopes.OPENABLE`.
        reflection: clients may ask which services there are.
        lame_duck_seconds: how long new calls are still answered after the first Ctrl-C or SIGTERM, while
            health says NOT_SERVING and load balancers take note; None = 3 where other machines can reach
            the server, else 0.
        drain_seconds: how long running requests may go on after that, and those of an unloaded version.
        keep_seconds: how long a version that was replaced stays loaded for a rollback.
        jobs: how prune jobs run.
    """

    models: tuple[ModelSpec, ...]
    listen: str = "127.0.0.1:50051"
    insecure: bool = False
    engine: EngineOptions = EngineOptions()
    state_dir: Path = field(default_factory=state_folder)
    state: str = ""
    roots: tuple[Path, ...] = ()
    tls: TlsOptions | None = None
    tokens: Path | None = None
    open_to_all: tuple[str, ...] = ("health",)
    reflection: bool = True
    limits: LimitOptions = LimitOptions()
    connections: ConnectionOptions = ConnectionOptions()
    observe: ObserveOptions = ObserveOptions()
    lame_duck_seconds: float | None = None
    drain_seconds: float = 30.0
    keep_seconds: float = 600.0
    jobs: JobOptions = JobOptions()

    def __post_init__(self) -> None:
        consent = self.insecure or self.tls is not None
        check_address("listen", self.listen, consent)
        if self.observe.metrics is not None:
            check_address("metrics", self.observe.metrics, consent, unix=False)
        if self.tokens is not None and self.tls is None and not self.local:
            raise BadInput(
                "tokens", self.tokens, "would be readable on the way: add `tls_cert` and `tls_key`"
            )
        for name in self.open_to_all:
            if name not in PUBLIC_SERVICES:
                raise BadInput("open_to_all", name, f"a list of {', '.join(PUBLIC_SERVICES)}, or nothing")
        if not self.state:
            object.__setattr__(self, "state", f"sqlite:///{self.state_dir.expanduser().absolute()}/server.db")
        for root in self.roots:
            if not root.is_dir():
                raise BadInput("roots", root, "no such folder")
        if self.tokens is not None and not self.tokens.is_file():
            raise BadInput("tokens", self.tokens, "no such file")
        for option, seconds in (
            ("drain_seconds", self.drain_seconds),
            ("lame_duck_seconds", self.lame_duck_seconds),
            ("keep_seconds", self.keep_seconds),
        ):
            if seconds is not None and not 0 <= seconds <= 86400:
                raise BadInput(option, seconds, "0 to 86400")

    @property
    def local(self) -> bool:
        """True if no other machine can reach the server."""
        return self.listen.startswith("unix:") or _is_loopback(host_of(self.listen))

    @property
    def lame_duck(self) -> float:
        """Seconds between health turning NOT_SERVING and the first refusal."""
        if self.lame_duck_seconds is not None:
            return self.lame_duck_seconds
        return 0.0 if self.local else LAME_DUCK_SECONDS


def parse_models(arguments: Sequence[str]) -> tuple[ModelSpec, ...]:
    """Read ``NAME=DIR`` arguments and check that each folder holds a whole checkpoint.

    Raises:
        BadInput: not of that form, or a name given twice.
        BrokenCheckpoint: the folder lacks weights, config or tokenizer, or a file is truncated.
    """
    specs: dict[str, ModelSpec] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not separator or not folder:
            raise BadInput("models", argument, "give each model as NAME=DIR, for example slim=out/slim")
        if not NAME_PATTERN.fullmatch(name):
            raise BadInput("models", argument, "a name is letters, digits, '.', '_' and '-', at most 64")
        if name in specs:
            raise BadInput("models", argument, f"the name {name} was given before")
        specs[name] = ModelSpec(name, Path(folder).expanduser())
    if not specs:
        raise BadInput("models", "nothing", "at least one model")
    for spec in specs.values():
        check_folder(spec)
    return tuple(specs.values())


def parse_folders(text: str | None) -> tuple[Path, ...]:
    """Read folders separated by commas, as absolute paths without symbolic links."""
    return tuple(Path(part).expanduser().resolve() for part in parse_list(text or ""))


def parse_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsOptions | None:
    """Put the three options together; None if none is given.

    Raises:
        BadInput: some are given, but not certificate and key.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None:
        raise BadInput("tls_cert", "nothing", "`tls_key` and `client_ca` need it")
    if key is None:
        raise BadInput("tls_key", "nothing", "`tls_cert` needs it")
    return TlsOptions(certificate, key, client_ca)


def check_folder(spec: ModelSpec) -> None:
    """Prove that the checkpoint is whole, so that nobody waits for an engine that cannot start."""
    from secateur.checkpoint.registration import register_config
    from secateur.checkpoint.source import open_source

    if not spec.folder.is_dir():
        raise BadInput("models", f"{spec.name}={spec.folder}", "no such folder")
    register_config()
    with suppress(UnsupportedModel):  # cannot be pruned, but vLLM may well be able to run it
        open_source(spec.folder)


def check_address(option: str, address: str, consent: bool, unix: bool = True) -> None:
    """Refuse what is no address, and (without consent) one that other machines can reach.

    Args:
        option: what the address was given with.
        address: ``HOST:PORT`` or, where ``unix`` allows, ``unix:PATH``.
        consent: connections are encrypted, or the user knows that they are not.
        unix: whether a socket in the file system will do.
    """
    if unix and address.startswith("unix:"):
        return
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(option, address, f"HOST:PORT, for example 127.0.0.1:50051{', or unix:PATH' * unix}")
    if not consent and not _is_loopback(host_of(address)):
        raise BadInput(
            option,
            address,
            "reachable from other machines without encryption: add `tls_cert` and `tls_key`, or `insecure`",
        )


def host_of(address: str) -> str:
    """Return the host of ``HOST:PORT``, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


def parse_list(text: str) -> tuple[str, ...]:
    """Read words separated by commas; none if empty."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def parse_bytes(field: str, text: str | None) -> int | None:
    """Read a number of bytes: ``512MiB``, ``2GiB``, ``1.5gib`` or a plain number of bytes."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in UNITS:
        raise BadInput(field, text, "a size such as 512MiB or 2GiB, or a number of bytes")
    return int(float(match[1]) * UNITS[match[2]])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
