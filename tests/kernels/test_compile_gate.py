"""Every kernel compiles for GPUs that are not here, fits them, and multiplies on the right units.

The interpreter accepts much that the compiler refuses, and says nothing of shared memory or tensor cores.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import secateur_kernels
from secateur_kernels.backend import triton_installed

HERE = Path(__file__).parent
KERNELS = Path(secateur_kernels.__file__).parent / "triton_backend"
# What one block may have, bytes: 227 KiB on Hopper, 163 KiB on the A100.
SHARED = {90: 232_448, 80: 166_912}

pytestmark = [
    pytest.mark.compile,
    pytest.mark.slow,
    pytest.mark.timeout(1500),  # all kernels are compiled for a GPU at once
    pytest.mark.skipif(not triton_installed(), reason="triton is not installed"),
]


@pytest.fixture(scope="module", params=SHARED)
def architecture(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def launches(architecture: int) -> list[dict[str, Any]]:
    """One entry per kernel, case and configuration."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_gate.py"), str(architecture)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    return found


def test_every_launch_fits_the_gpu(launches: list[dict[str, Any]], architecture: int) -> None:
    for launch in launches:
        assert launch["shared"] <= SHARED[architecture], launch
        assert launch["cubin_bytes"] > 0, launch


def test_products_run_on_the_units_meant_for_them(launches: list[dict[str, Any]], architecture: int) -> None:
    """Tensor cores for bf16, never at the half precision of tf32."""
    assert not [launch for launch in launches if launch["tf32_products"]]
    multiplying = [
        launch
        for launch in launches
        if launch["case"].endswith("bf16") and not launch["kernel"].startswith("_merge")
    ]
    assert multiplying
    assert not [launch for launch in multiplying if not launch["bf16_products"]]
    if architecture >= 90:
        assert not [launch for launch in multiplying if not launch["wgmma"]]


def test_a_nested_projection_is_pipelined_like_a_plain_one(launches: list[dict[str, Any]]) -> None:
    """Its loads start where the last width ended: only known alignment lets them be made ahead."""
    shared = {launch["case"]: launch["shared"] for launch in launches}
    assert shared["projection_nested-bf16"] == shared["projection-bf16"]


def test_every_launch_tells_a_profiler_its_work(launches: list[dict[str, Any]]) -> None:
    for launch in launches:
        if not launch["kernel"].startswith("_merge"):
            bits = {"fp32": 32}.get(launch["case"].rsplit("-", 1)[1], 16)
            assert launch["said"][f"flops{bits}"] > 0 and launch["said"]["bytes"] > 0, launch


def test_every_kernel_that_is_launched_is_compiled(launches: list[dict[str, Any]]) -> None:
    assert launched_kernels() - {launch["kernel"] for launch in launches} == set()


def launched_kernels() -> set[str]:
    """Names of the @triton.jit functions that the source launches: ``name[grid](...)``."""
    kernels, launched = set(), set()
    for path in KERNELS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                "triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                kernels.add(node.name)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Subscript)
                and isinstance(node.func.value, ast.Name)
            ):
                launched.add(node.func.value.id)
    found = {name for name in kernels & launched if name.startswith("_")}
    assert found
    return found
