"""A whole prune run by the kernels of a GPU, run by Triton's interpreter, finds what torch finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.host import ROOT


@pytest.mark.slow
def test_the_kernels_find_what_torch_finds(
    make_tiny: Callable[..., Path], english: str, tmp_path: Path
) -> None:
    model, text = make_tiny("llama", num_hidden_layers=2), tmp_path / "text.txt"
    text.write_text(english[:8_000])
    found: dict[str, Any] = {}
    for backend in ("torch", "triton"):
        arguments = [backend, str(model), str(text), str(tmp_path / backend)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.prune.on_interpreted_triton", *arguments],
            cwd=ROOT,
            env={**os.environ, "TRITON_INTERPRET": "1"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found[backend] = json.loads(done.stdout.splitlines()[-1])
    assert found["triton"]["architecture"] == found["torch"]["architecture"]
    assert found["triton"]["kl"] == pytest.approx(found["torch"]["kl"], rel=0.01)
    assert found["torch"]["launches"] == 0
    assert found["triton"]["launches"] > 50
