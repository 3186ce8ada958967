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

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DTYPES = ("auto", "bfloat16", "float16", "float32")
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
    kv_cache_bytes: int | None = None
    threads: int | None = None
    compiled: bool | None = None
    prefix_caching: bool = True
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadInput("--dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        for option, value, least in (
            ("--max-model-len", self.max_model_len, 2),
            ("--max-sequences", self.max_sequences, 1),
            ("--max-queued", self.max_queued, 1),
            ("--kv-cache-memory", self.kv_cache_bytes, 2**20),
            ("--threads", self.threads, 1),
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
            ("--tls-cert", self.certificate),
            ("--tls-key", self.key),
            ("--client-ca", self.client_ca),
        ):
            if file is not None and not file.is_file():
                raise BadInput(name, file, "no such file")


def state_folder() -> Path:
    """Return where a server keeps its files unless told otherwise, by the XDG rules."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "secateur"


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
        tokens: file of the bearer tokens that calls must carry; None = calls need none.
        drain_seconds: how long running requests may go on after the first Ctrl-C or SIGTERM, and those of
            a version that is unloaded.
        keep_seconds: how long a version that was replaced stays loaded for a rollback.
        max_message_bytes: largest gRPC message accepted.
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
    drain_seconds: float = 30.0
    keep_seconds: float = 600.0
    max_message_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        check_listen(self.listen, self.insecure or self.tls is not None)
        if not self.state:
            object.__setattr__(self, "state", f"sqlite:///{self.state_dir.expanduser().absolute()}/server.db")
        for root in self.roots:
            if not root.is_dir():
                raise BadInput("--roots", root, "no such folder")
        if self.tokens is not None and not self.tokens.is_file():
            raise BadInput("--tokens", self.tokens, "no such file")
        for option, seconds in (
            ("--drain-seconds", self.drain_seconds),
            ("--keep-seconds", self.keep_seconds),
        ):
            if not 0 <= seconds <= 86400:
                raise BadInput(option, seconds, "0 to 86400")


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
            raise BadInput("NAME=DIR", argument, "give each model as NAME=DIR, for example slim=out/slim")
        if not NAME.fullmatch(name):
            raise BadInput("NAME=DIR", argument, "a name is letters, digits, '.', '_' and '-', at most 64")
        if name in specs:
            raise BadInput("NAME=DIR", argument, f"the name {name} was given before")
        specs[name] = ModelSpec(name, Path(folder).expanduser())
    if not specs:
        raise BadInput("NAME=DIR", "nothing", "at least one model")
    for spec in specs.values():
        check_folder(spec)
    return tuple(specs.values())


def parse_folders(text: str | None) -> tuple[Path, ...]:
    """Read folders separated by commas, as absolute paths without symbolic links."""
    parts = [part.strip() for part in (text or "").split(",")]
    return tuple(Path(part).expanduser().resolve() for part in parts if part)


def parse_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsOptions | None:
    """Put the three options together; None if none is given.

    Raises:
        BadInput: some are given, but not certificate and key.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None:
        raise BadInput("--tls-cert", "nothing", "--tls-key and --client-ca need it")
    if key is None:
        raise BadInput("--tls-key", "nothing", "--tls-cert needs it")
    return TlsOptions(certificate, key, client_ca)


def check_folder(spec: ModelSpec) -> None:
    """Prove that the checkpoint is whole, so that nobody waits for an engine that cannot start."""
    from secateur.model.source import open_source
    from secateur.slim.registration import register_config

    if not spec.folder.is_dir():
        raise BadInput("NAME=DIR", f"{spec.name}={spec.folder}", "no such folder")
    register_config()
    with suppress(UnsupportedModel):  # cannot be pruned, but vLLM may well be able to run it
        open_source(spec.folder)


def check_listen(listen: str, insecure: bool) -> None:
    """Refuse what is no address, and (unless ``insecure``) one that other machines can reach."""
    if listen.startswith("unix:"):
        return
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise BadInput("--listen", listen, "HOST:PORT, for example 127.0.0.1:50051, or unix:PATH")
    if not insecure and not _is_loopback(host.strip("[]")):
        raise BadInput("--listen", listen, "reachable from other machines without encryption: add --insecure")


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
