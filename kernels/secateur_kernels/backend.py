"""Which implementation runs: the Triton kernels, or torch."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from secateur_kernels.arguments import KernelArgumentError

Backend = Literal["auto", "triton", "torch"]
BACKENDS: tuple[Backend, ...] = ("auto", "triton", "torch")


class KernelBackendUnavailable(RuntimeError):
    """The backend asked for cannot run here."""


def select_backend(backend: str, tensor: Tensor) -> Literal["triton", "torch"]:
    """The implementation for an input.

    ``auto`` takes Triton for tensors on an NVIDIA GPU where Triton is installed, else torch. Under
    Triton's interpreter (``TRITON_INTERPRET=1`` before the first import of triton) ``triton`` works on
    CPU tensors: slow, for tests.

    Raises:
        KernelArgumentError: no such backend.
        KernelBackendUnavailable: ``triton`` was asked for and cannot run.
    """
    if backend not in BACKENDS:
        raise KernelArgumentError("backend", repr(backend), f"allowed are {', '.join(BACKENDS)}")
    if backend == "torch":
        return "torch"
    if backend == "auto":
        return "triton" if tensor.device.type == "cuda" and triton_installed() else "torch"
    if not triton_installed():
        raise KernelBackendUnavailable("backend: 'triton' given; the package triton is not installed")
    if not runs_on(tensor.device.type):
        raise KernelBackendUnavailable(
            f"backend: 'triton' given with tensors on {tensor.device}; it runs on cuda, "
            "and on cpu only under TRITON_INTERPRET=1"
        )
    return "triton"


def implementation(module: str, backend: str, tensor: Tensor) -> Any:
    """The module of that name of the backend chosen for an input; raises as `select_backend` does."""
    return import_module(f"secateur_kernels.{select_backend(backend, tensor)}_backend.{module}")


def with_gradients(backend: Backend, *tensors: Tensor | None) -> Backend:
    """The backend to choose from where any of these may need a gradient: the Triton kernels have none.

    Raises:
        KernelBackendUnavailable: ``triton`` was asked for; its result would silently be a constant.
    """
    if not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in tensors):
        return backend
    if backend == "triton":
        raise KernelBackendUnavailable(
            "backend: 'triton' given with tensors that require gradients; only 'torch' has them "
            "(or call under torch.no_grad())"
        )
    return "torch" if backend == "auto" else backend


def triton_installed() -> bool:
    """Whether Triton can be imported."""
    return find_spec("triton") is not None


def runs_on(device_type: str) -> bool:
    """Whether Triton kernels run on tensors there."""
    return device_type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
