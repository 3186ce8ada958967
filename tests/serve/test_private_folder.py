"""The folder of a server's sockets: gone with it, whatever ended it, and nobody else's is touched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from secateur.serve.private_folder import private_folder

HOLD = """
import sys
from secateur.serve.private_folder import private_folder
with private_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def hold() -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLD]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_goes_with_its_context(temporary: Path) -> None:
    with private_folder() as folder:
        (folder / "socket").touch()
        assert folder.parent == temporary
    assert not list(temporary.iterdir())


def test_that_of_a_living_server_stays_that_of_a_killed_one_goes() -> None:
    process, folder = hold()
    try:
        with private_folder():
            assert folder.is_dir()
        process.kill()
        process.wait()
        assert folder.is_dir()
        with private_folder():
            assert not folder.exists()
    finally:
        process.kill()


def test_others_are_left_alone(temporary: Path) -> None:
    (temporary / "secateur-serve-without-a-lock").mkdir()
    (temporary / "something").mkdir()
    with private_folder():
        assert (temporary / "secateur-serve-without-a-lock").is_dir()
        assert (temporary / "something").is_dir()
