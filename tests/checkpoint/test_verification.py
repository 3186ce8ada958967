"""No checkpoint counts as written before transformers alone has opened it and found the same loss."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from secateur.checkpoint import export as export_module
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.checkpoint.verification import TOKENS, verify
from secateur.errors import OutputFailed
from tests.checkpoint.test_export import MIXED, slim_of


def test_the_same_loss(tiny_model: Path, tmp_path: Path) -> None:
    model, source = slim_of(tiny_model, MIXED)
    verification = export(model, source, tmp_path / "out", None, torch.bfloat16)
    assert verification.loss == pytest.approx(verification.engine_loss, abs=1e-4)
    assert verification.tokens == TOKENS


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 10.0', "another model: its loss is"),
        ("config.json", '"hidden_size": 128', '"hidden_size": 64', "cannot open the checkpoint"),
        ("modeling_secateur.py", "import torch\n", "import torch\nimport secateur\n", "secateur"),
        ("modeling_secateur.py", "import torch\n", "import nothing_of_that_name\n", "nothing_of_that_name"),
        ("tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true', "splits text"),
    ],
)
def test_a_checkpoint_that_is_another_one_is_refused_and_not_left_behind(
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    old: str,
    new: str,
    words: str,
) -> None:
    def damage(folder: Path, *given: object) -> object:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
        return verify(folder, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(export_module, "verify", damage)
    model, source = slim_of(tiny_llama, MIXED)
    with pytest.raises(OutputFailed, match=words):
        export(model, source, tmp_path / "out", None, torch.float32)
    assert os.listdir(tmp_path) == []


def test_a_folder_with_a_dense_model_of_another_kind_is_another_model(
    make_tiny: Callable[..., Path], tiny_llama: Path
) -> None:
    """Written whole, and opened by transformers without complaint."""
    source = open_source(tiny_llama)
    with pytest.raises(OutputFailed, match="another model"):
        verify(make_tiny("llama", seed=9, initializer_range=0.3), source.load_model(), source)


def test_the_process_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    script = """
import os, time
from secateur.checkpoint.verification import _process, start_verification
start_verification()
print(_process()._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and is_running(pid):
        time.sleep(0.2)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
