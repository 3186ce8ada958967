"""Every kernel compiles for GPUs that are not here, fits them, and multiplies on the right units.

The interpreter accepts much that the compiler refuses, and says nothing of shared memory or tensor cores.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import secateur_kernels
from secateur_kernels.backend import triton_installed
from tests.kernels.compile_cases import CASES
from tests.kernels.registers import registers, spilled

HERE = Path(__file__).parent
KERNELS = Path(secateur_kernels.__file__).parent / "triton_backend"
# What one block may have, bytes: 227 KiB on Hopper, 163 KiB on the A100.
SHARED = {90: 232_448, 80: 166_912}

# What users get: with torch 2.11, with torch 2.13, and what this was written with.
TRITONS = ("3.6.0", "3.7.1", "3.9.0")
# What the search runs all the time; compiled in every run of the tests.
MAIN_PATH = ("loss-bf16", "loss_against_a_teacher-bf16", "mlp-bf16")

pytestmark = [
    pytest.mark.compile,
    pytest.mark.timeout(1500),  # all kernels are compiled for a GPU at once
    pytest.mark.skipif(not triton_installed(), reason="triton is not installed"),
]


def compiled(architecture: int, *cases: str, triton: Path | None = None) -> list[dict[str, Any]]:
    """One entry per kernel, case and configuration; by the Triton in a folder, or the one installed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if triton is not None:
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(triton), str(KERNELS.parents[1]), environment.get("PYTHONPATH", "")]
        )
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_gate.py"), str(architecture), *cases],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    return found


@pytest.fixture(scope="module", params=SHARED)
def architecture(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def launches(architecture: int) -> list[dict[str, Any]]:
    return compiled(architecture)


@pytest.fixture(params=TRITONS)
def other_triton(request: pytest.FixtureRequest) -> Path | None:
    """The folder of a Triton version, installed on first use; None for the one installed."""
    if version("triton") == request.param:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "secateur-triton" / request.param
    if not (folder / "triton").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, f"triton=={request.param}"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"triton {request.param} cannot be installed: {done.stderr.strip()[-200:]}")
    return folder


def assert_within_limits(launches: list[dict[str, Any]]) -> None:
    """Registers and spills of the launches in 16-bit dtypes, as `registers` has them."""
    beyond, checked = [], 0
    for launch in launches:
        case, dtype = launch["case"].rsplit("-", 1)
        if dtype == "fp32":
            continue
        checked += 1
        allowed = registers(launch["kernel"], case), spilled(launch["kernel"], case)
        if launch["registers"] > allowed[0] or (allowed[1] is not None and launch["spilled"] > allowed[1]):
            taken = launch["registers"], launch["spilled"]
            beyond.append((launch["kernel"], case, taken, allowed))
    assert checked and not beyond, beyond


def test_the_main_path_spills_nothing_and_copies_by_itself() -> None:
    launches = compiled(90, *MAIN_PATH)
    assert_within_limits(launches)
    walked = [launch for launch in launches if launch["kernel"].endswith("_walked")]
    assert {launch["case"] for launch in walked} == set(MAIN_PATH)
    for launch in walked:
        assert launch["spilled"] == 0 and launch["bulk_copies"] and launch["wgmma"], launch


@pytest.mark.slow
def test_registers_and_spills_in_every_triton(other_triton: Path | None) -> None:
    cases = [name for name in CASES if name.endswith("-bf16")]
    launches = compiled(90, *cases, triton=other_triton)
    assert_within_limits(launches)
    for launch in launches:
        assert launch["shared"] <= SHARED[90], launch
        assert not launch["kernel"].endswith("_walked") or launch["bulk_copies"], launch


@pytest.mark.slow
def test_every_launch_fits_the_gpu(launches: list[dict[str, Any]], architecture: int) -> None:
    for launch in launches:
        assert launch["shared"] <= SHARED[architecture], launch
        assert launch["cubin_bytes"] > 0, launch


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_nested_projection_is_pipelined_like_a_plain_one(launches: list[dict[str, Any]]) -> None:
    """Its loads start where the last width ended: only known alignment lets them be made ahead."""
    shared = {launch["case"]: launch["shared"] for launch in launches}
    assert shared["projection_nested-bf16"] == shared["projection-bf16"]


@pytest.mark.slow
def test_every_launch_tells_a_profiler_its_work(launches: list[dict[str, Any]]) -> None:
    for launch in launches:
        if not launch["kernel"].startswith("_merge"):
            bits = {"fp32": 32}.get(launch["case"].rsplit("-", 1)[1], 16)
            assert launch["said"][f"flops{bits}"] > 0 and launch["said"]["bytes"] > 0, launch


@pytest.mark.slow
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
