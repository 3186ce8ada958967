"""The kernel tests notice faults: with one planted in a copy of the package they fail, without they pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import secateur_kernels
from secateur_kernels.backend import triton_installed

PACKAGE = Path(secateur_kernels.__file__).parent
ROOT = Path(__file__).parents[2]
PASSED, FAILED = 0, 1  # exit codes of pytest; 2 to 5 are its own troubles

pytestmark = pytest.mark.skipif(not triton_installed(), reason="triton is not installed")


@dataclass(frozen=True)
class Fault:
    """A text of one file replaced, and the tests that must notice."""

    file: str
    text: str
    wrong: str
    tests: str
    chosen: str


PROJECTION = ("tests/kernels/test_projection.py", "equals_the_sliced_product and fp32 and {}")
MLP = ("tests/kernels/test_mlp.py", "equals_the_mlp_cut and fp32 and {}")
TRITON_PROJECTION = (PROJECTION[0], PROJECTION[1].format("triton"))
TRITON_MLP = (MLP[0], MLP[1].format("triton"))
LOSS = "tests/kernels/test_linear_loss.py"
ONE_PASS = (LOSS, "TestOnePass and nll_entropy_and_lse and fp32 and triton")
SPLITS = (LOSS, "splits_are_one_against_a_teacher and fp32 and triton")
WALKED = (LOSS, "TestWalked and to_the_bit and alone and triton")
ATTENTION = ("tests/kernels/test_attention.py", "hides_what_is_older and fp32 and triton")

FAULTS = {
    "a width too large by one": Fault(
        "triton_backend/projection.py",
        "rows_dot(total, inner_ptrs, n < N, right, h < H, width, STEP)",
        "rows_dot(total, inner_ptrs, n < N, right, h < H, width + 1, STEP)",
        *TRITON_PROJECTION,
    ),
    "a missing tail": Fault(
        "triton_backend/product.py",
        "b = tl.load(right + whole + along, mask=right_there & inside, other=0.0)\n"
        "        total = dot(a, b.T, total)",
        "b = tl.load(right + whole + along, mask=right_there & inside, other=0.0)",
        *TRITON_PROJECTION,
    ),
    "a wrong scale": Fault(
        "triton_backend/projection.py",
        "target = out + (m * N + n) * H + column",
        "total *= 1.01\n    target = out + (m * N + n) * H + column",
        *TRITON_PROJECTION,
    ),
    "an activation without its sigmoid": Fault(
        "triton_backend/mlp.py",
        "gate * tl.sigmoid(power) * up",
        "gate * up",
        *TRITON_MLP,
    ),
    "a last tile skipped": Fault(
        "triton_backend/mlp.py",
        "column_tiles = tl.cdiv(width, COLUMNS)",
        "column_tiles = width // COLUMNS",
        *TRITON_MLP,
    ),
    "a slice too long by one": Fault(
        "torch_backend/projection.py",
        "functional.linear(inner_NC[:, :width], weight_HC[:, :width], bias_H)",
        "functional.linear(inner_NC[:, : width + 1], weight_HC[:, : width + 1], bias_H)",
        PROJECTION[0],
        PROJECTION[1].format("torch"),
    ),
    "a vocabulary without its end": Fault(
        "triton_backend/linear_loss.py",
        'logits = tl.where((v < V)[None, :], logits, float("-inf"))',
        'logits = tl.where((v >= 0)[None, :], logits, float("-inf"))',
        *ONE_PASS,
    ),
    "a sum that stays at its old maximum": Fault(
        "triton_backend/linear_loss.py",
        "weighted = weighted * shrink + tl.sum(q *",
        "weighted += tl.sum(q *",
        *ONE_PASS,
    ),
    "splits merged at a wrong scale": Fault(
        "triton_backend/linear_loss.py",
        "tl.sum(scale * tl.load(at + field,",
        "tl.sum(tl.load(at + field,",
        *SPLITS,
    ),
    "a teacher's splits merged at a wrong scale": Fault(
        "triton_backend/linear_loss.py",
        "tl.sum(scale * tl.load(at + 5 * field,",
        "tl.sum(tl.load(at + 5 * field,",
        *SPLITS,
    ),
    "a second group of tiles like the first": Fault(
        "triton_backend/product.py",
        "first = item // (GROUP * columns) * GROUP",
        "first = 0 * item",
        *WALKED,
    ),
    "a split written before its last tile": Fault(
        "triton_backend/linear_loss.py",
        "if unit % TILES == TILES - 1:",
        "if unit % TILES == 0:",
        *ONE_PASS,
    ),
    "a target's logit without the teacher's part": Fault(
        "triton_backend/linear_loss.py",
        "logit += row_dots(",
        "logit -= row_dots(",
        *SPLITS,
    ),
    "a query that does not see itself": Fault(
        "triton_backend/attention.py",
        "allowed = (row >= column.T)",
        "allowed = (row > column.T)",
        *ATTENTION,
    ),
    "a window too long by one": Fault(
        "triton_backend/attention.py",
        "row - column.T < window",
        "row - column.T <= window",
        *ATTENTION,
    ),
}


# One of each kernel; the others are noticed by the same tests.
FAST = (
    "a width too large by one",
    "an activation without its sigmoid",
    "a sum that stays at its old maximum",
    "a query that does not see itself",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, with a plugin beside it that makes pytest say where the package was imported from."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "says_where.py").write_text(
        "import secateur_kernels\n\n\ndef pytest_report_header():\n"
        "    return 'package: ' + secateur_kernels.__file__\n"
    )
    return tmp_path / PACKAGE.name


def run(copy: Path, chosen: str, *files: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "TRITON_INTERPRET": "1"}
    plugins = ["-p", "says_where", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", *plugins, "-k", chosen, *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert f"package: {copy / '__init__.py'}" in done.stdout, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout
    return done.returncode, done.stdout


@pytest.mark.slow
def test_the_unmodified_copy_passes(copy: Path) -> None:
    chosen = " or ".join(sorted({f"({fault.chosen})" for fault in FAULTS.values()}))
    code, said = run(copy, chosen, *sorted({fault.tests for fault in FAULTS.values()}))
    assert code == PASSED, said


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FAULTS]
)
def test_a_planted_fault_is_noticed(name: str, copy: Path) -> None:
    fault = FAULTS[name]
    source = (copy / fault.file).read_text()
    assert source.count(fault.text) == 1
    (copy / fault.file).write_text(source.replace(fault.text, fault.wrong))
    code, said = run(copy, fault.chosen, fault.tests)
    assert code == FAILED, said
    # Wrong numbers, not a fault that breaks the code.
    assert re.search(r"tests/kernels/\w+\.py:\d+: AssertionError", said), said
