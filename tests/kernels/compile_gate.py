"""Compiles every kernel launch for a GPU that is not there: ``python compile_gate.py 90 [CASE ...]``.

Runs the cases of `compile_cases` on CPU tensors with launching replaced by compiling, so what is
compiled is exactly what the public functions launch. Must run without the interpreter. Prints one
JSON line per launch: kernel, what it tells a profiler, case, shared memory, registers and bytes spilled per
thread, tensor-core instructions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
# Triton 3.10 flips the default; say what is compiled.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from triton.backends.compiler import GPUTarget

import secateur_kernels.backend
from secateur_kernels.triton_backend import tile

BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"  # of this very Triton


class AbsentGpu:
    """As much of a driver as compiling asks for."""

    def __init__(self, architecture: int) -> None:
        self._target = GPUTarget("cuda", architecture, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@cache
def resources(cubin: bytes) -> dict[str, int]:
    """What the machine code takes of each thread: ptxas spills to the stack, and nothing else is there."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [BINARIES / "cuobjdump", "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "registers": int(re.findall(r"REG:(\d+)", said)[0]),
        "spilled": int(re.findall(r"STACK:(\d+)", said)[0]),
    }


def compile_instead_of_launching(launches: list[dict[str, Any]], case: list[str]) -> None:
    run = triton.runtime.jit.JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        ptx = kernel.asm["ptx"]
        given = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        said = self.launch_metadata and self.launch_metadata(grid, kernel.metadata, given)
        found = {
            "said": said,
            "case": case[0],
            "kernel": self.__name__,
            "warps": kernel.metadata.num_warps,
            "shared": kernel.metadata.shared,
            **resources(kernel.asm["cubin"]),
            "cubin_bytes": len(kernel.asm["cubin"]),
            "bf16_products": len(re.findall(r"(?:wgmma\.mma_async|mma)\.sync\.aligned\.\S*bf16", ptx)),
            "wgmma": ptx.count("wgmma.mma_async"),
            "bulk_copies": ptx.count("cp.async.bulk.tensor"),
            "tf32_products": len(re.findall(r"mma\S*tf32", ptx)),
        }
        if found not in launches:
            launches.append(found)
        return kernel

    triton.runtime.jit.JITFunction.run = compile_only


def main(architecture: int, wanted: list[str]) -> None:
    from compile_cases import CASES

    triton.runtime.driver.set_active(AbsentGpu(architecture))
    secateur_kernels.backend.runs_on = lambda device_type: True
    tile.ASSUMED_ARCHITECTURE = architecture
    launches: list[dict[str, Any]] = []
    case = [""]
    compile_instead_of_launching(launches, case)
    for name, call in CASES.items():
        if not wanted or name in wanted:
            case[0] = name
            call()
    for launch in launches:
        print(json.dumps(launch))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
