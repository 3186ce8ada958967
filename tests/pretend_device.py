"""A device that is none: its tensors lie in host memory, and it is as strict as a GPU.

Operands of two devices are refused as on a GPU (numbers without dimensions may come from the host). Copies
to and from it are counted, each with the line of Secateur that asked for it: those to the host stop a GPU's
queue. Built on torch's private device type: what C++ does without asking Python (an index given as a list)
is refused. Import it in processes of their own alone: torch cannot forget a device again, and libraries ask
it whether there is one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_CPU = torch.device("cpu")
_torch_tensor = torch.tensor
_COPIES = ("aten::to", "aten::_to_copy", "aten::copy_")
# Their answer is a number, or has a shape that depends on numbers: the host must wait.
_WAITS = (
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
)
_LISTED = ("/engine/secateur/", "/kernels/secateur_kernels/")


class _Module:
    """What torch asks a device's own module for."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """What is drawn there is drawn on the host."""

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def mem_get_info(index: int = 0) -> tuple[int, int]:
        return 80_000_000_000, 80_000_000_000


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
DEVICE = torch.device(NAME, 0)


@dataclass
class Traffic:
    """Copies between the host and the device, by the line of Secateur that asked for them."""

    to_host: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)


_traffic = Traffic()


class PretendTensor(Tensor):
    """A tensor that claims to be on the device."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=DEVICE,
        )
        made.raw = raw
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"pretend({self.raw})"

    def tolist(self) -> Any:
        _traffic.to_host[_caller()] += 1
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {DEVICE} tensor to numpy; use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _EveryCall(TorchDispatchMode):
    """Factories too, which have no tensor to be dispatched by."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(function, args, kwargs or {})


@contextmanager
def pretend_device() -> Iterator[Traffic]:
    """The device exists inside; yields what is copied to and from it."""
    global _traffic
    _traffic = Traffic()
    with _EveryCall(), patch.object(torch, "tensor", _tensor):
        yield _traffic


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """torch's own makes it without asking Python."""
    made = _torch_tensor(data, **options)
    return made if device is None else made.to(device)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function.name().partition(".")[0]
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [each for each in leaves if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, PretendTensor)]
    asked = next((each for each in leaves if isinstance(each, torch.device)), None)
    on_device = bool(there) if asked is None else asked.type == NAME
    masked = name == "aten::index" and any(each.dtype == torch.bool for each in there)
    if masked or (name in _WAITS and there):
        _traffic.to_host[_caller()] += 1
    elif name in _COPIES:
        goal, source = (on_device, args[0]) if name != "aten::copy_" else (_is_there(args[0]), args[1])
        if goal != _is_there(source):
            (_traffic.to_device if goal else _traffic.to_host)[_caller()] += 1
    elif there and any(each.dim() and not _is_there(each) for each in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device: {DEVICE} and cpu")
    raw_args, raw_kwargs = pytree.tree_map(_raw, (args, kwargs))
    by_raw = {id(each.raw): each for each in there}
    # A view of a tensor made outside of inference mode is none of that mode's, wherever it is taken.
    with torch.inference_mode(False), torch.no_grad():
        found = function(*raw_args, **raw_kwargs)
        if any(found is each for each in raw_args) and _is_there(args[0]) != on_device:
            found = found.clone()  # from one memory to the other
        return pytree.tree_map(lambda each: _wrapped(each, by_raw, on_device), found)


def _is_there(value: Any) -> bool:
    return isinstance(value, PretendTensor)


def _raw(value: Any) -> Any:
    """A tensor's memory, and the host for the device."""
    if isinstance(value, torch.device):
        return _CPU
    return value.raw if isinstance(value, PretendTensor) else value


def _wrapped(value: Any, by_raw: dict[int, PretendTensor], on_device: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    if id(value) in by_raw:  # changed in place
        return by_raw[id(value)]
    return PretendTensor(value) if on_device else value


def _caller() -> str:
    """The innermost line of Secateur on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        for folder in _LISTED:
            if folder in file:
                return f"{file.partition(folder)[2]}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
