"""Which implementation runs: the Triton kernels, or torch.

`AUTO` says what ``auto`` takes on a GPU, and why. It asks what was called and in which form, never for how
many tokens or candidates: a result must not depend on what it is computed together with.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from secateur_kernels.arguments import KernelArgumentError, Widths

Backend = Literal["auto", "triton", "torch"]
BACKENDS: tuple[Backend, ...] = ("auto", "triton", "torch")


# One candidate, or all of a weight; several, each with its width; several of a large model; widths that only
# the device knows.
Form = Literal["one", "several", "large", "unread"]
LARGE = 2049  # hidden size from which one candidate fills a GPU: 448 tiles for 8 windows of an 8B model


@dataclass(frozen=True)
class Choice:
    """What ``auto`` takes on a GPU, and what speaks for it."""

    backend: Literal["triton", "torch"]
    why: str


_CUBLAS = Choice(
    "torch",
    "cuBLAS: 769 to 798 TFLOP/s at 8192 cubed on Hopper, which no kernel here will reach; not compared",
)
_TOGETHER = Choice("triton", "one launch for all candidates, no copies of weights; not measured")
_UNREAD = Choice("triton", "torch would wait for the device to say the widths")
AUTO: dict[tuple[str, Form], Choice] = {
    ("linear_loss", "one"): Choice(
        "triton", "no logits in memory; speed against chunks in cuBLAS not measured"
    ),
    ("mlp", "one"): _CUBLAS,
    ("mlp", "several"): _TOGETHER,
    ("mlp", "large"): _CUBLAS,
    ("mlp", "unread"): _UNREAD,
    ("attention", "one"): Choice("torch", "SDPA, and cuBLAS for what is projected; not compared"),
    ("attention", "several"): _TOGETHER,
    ("attention", "large"): Choice("torch", "SDPA, candidate by candidate; not compared"),
    ("attention", "unread"): _UNREAD,
    ("projection", "one"): _CUBLAS,
    ("projection", "several"): _TOGETHER,
    ("projection", "large"): _CUBLAS,
    ("projection", "unread"): _UNREAD,
}


class KernelBackendUnavailable(RuntimeError):
    """The backend asked for cannot run here."""


def form_of(kept: Widths, hidden: int) -> Form:
    """How widths are given: one integer or none, or one for each candidate of a model of that size."""
    if kept.counts is None:
        return "unread"
    if kept.single:
        return "one"
    return "large" if hidden >= LARGE else "several"


def select_backend(
    backend: str, tensor: Tensor, function: str = "linear_loss", form: Form = "one"
) -> Literal["triton", "torch"]:
    """The implementation of a function (a module's name) for an input.

    ``auto`` takes what `AUTO` says for tensors on an NVIDIA GPU where Triton is installed, else torch. Under
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
        return (
            AUTO[function, form].backend if tensor.device.type == "cuda" and triton_installed() else "torch"
        )
    if not triton_installed():
        raise KernelBackendUnavailable("backend: 'triton' given; the package triton is not installed")
    if not runs_on(tensor.device.type):
        raise KernelBackendUnavailable(
            f"backend: 'triton' given with tensors on {tensor.device}; it runs on cuda, "
            "and on cpu only under TRITON_INTERPRET=1"
        )
    return "triton"


def implementation(module: str, backend: str, tensor: Tensor, form: Form = "one") -> Any:
    """The module of that name of the backend chosen for an input; raises as `select_backend` does."""
    return import_module(f"secateur_kernels.{select_backend(backend, tensor, module, form)}_backend.{module}")


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
