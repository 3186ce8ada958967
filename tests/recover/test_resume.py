"""A run that is killed goes on where its state was, and ends as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from secateur.config.recover import RecoverOptions
from secateur.errors import BadInput
from secateur.progress import SilentReporter
from secateur.recover.pipeline import recover
from secateur.recover.state import FILE, KEY

STEPS = 60


def command(slim: Path, text: Path, out: Path) -> list[str]:
    options = ["--corpus", str(text)]
    options += [
        "--steps",
        str(STEPS),
        "--window",
        "32",
        "--learning-rate",
        "2e-3",
        "--validation-windows",
        "8",
    ]
    return [
        sys.executable,
        "-m",
        "secateur.cli.app",
        "recover",
        str(slim),
        "--out",
        str(out),
        *options,
        "--json",
    ]


def finish(slim: Path, text: Path, out: Path) -> dict[str, Any]:
    done = subprocess.run(command(slim, text, out), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def kept_step(state: Path) -> int:
    """The step of the state on disk; 0 where there is none."""
    if not state.is_file():
        return 0
    with safe_open(state, "pt") as stored:
        return json.loads(stored.metadata()[KEY])["progress"]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("after", [5, 35], ids=["early", "after-validation"])
def test_killed_and_resumed_equals_uninterrupted(
    slim_llama: Path, text: Path, tmp_path: Path, after: int
) -> None:
    out, state = tmp_path / "killed", tmp_path / "killed.recovery" / FILE
    process = subprocess.Popen(
        command(slim_llama, text, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while kept_step(state) < after:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and after <= kept_step(state) < STEPS
    resumed = finish(slim_llama, text, out)
    whole = recover(options(slim_llama, text, tmp_path / "whole"), SilentReporter())
    assert resumed["recovery"]["losses"] == pytest.approx(whole["recovery"]["losses"], rel=1e-4)
    assert resumed["recovery"]["kl"] == pytest.approx(whole["recovery"]["kl"], rel=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole")]
    for name, tensor in weights[0].items():
        assert float((tensor - weights[1][name]).abs().max()) < 1e-3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed", "whole"]


def options(slim: Path, text: Path, out: Path, **changes: Any) -> RecoverOptions:
    given = {
        "corpus": (str(text),),
        "steps": STEPS,
        "window": 32,
        "learning_rate": 2e-3,
        "validation_windows": 8,
        **changes,
    }
    return RecoverOptions(model=str(slim), out=out, **given)


class InterruptAt:
    """A reporter that presses Ctrl-C after so many steps."""

    def __init__(self, step: int) -> None:
        self._left = step

    def stage(self, name: str, total: int) -> None: ...

    def message(self, line: str) -> None: ...

    def step(self, note: str = "", count: int = 1) -> None:
        self._left -= count
        if self._left <= 0:
            raise KeyboardInterrupt


def test_other_options_and_damage_are_refused(slim_llama: Path, text: Path, tmp_path: Path) -> None:
    """A state is gone on with by the run that it is of, and by no other; Ctrl-C leaves it."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        recover(options(slim_llama, text, out), InterruptAt(20))
    assert not out.exists() and (tmp_path / "out.recovery" / FILE).is_file()
    with pytest.raises(BadInput, match="an earlier run with another `learning_rate` stopped here"):
        recover(options(slim_llama, text, out, learning_rate=1e-3), SilentReporter())
    file = tmp_path / "out.recovery" / FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match="a damaged state of an earlier run"):
        recover(options(slim_llama, text, out), SilentReporter())
