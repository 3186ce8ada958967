"""Standard streams that are closed, full or read by nobody: the work is done, the status says how it went.

Proven in processes of their own, as a service manager or a shell starts them: no traceback, whatever is
closed; what cannot be printed on stdout is an error (status 2); what stderr cannot take stops nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secateur import __version__
from secateur.serve.engine.environment import on_cpu

CLOSED = [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"]


def shell(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line with a redirection of the shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "secateur.cli.app"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("redirection", CLOSED)
def test_closed(redirection: str) -> None:
    done = shell(redirection, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if redirection.replace("2>", "").count(">&-") else f"secateur {__version__}\n")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_error_keeps_its_status(redirection: str) -> None:
    done = shell(redirection, "evaluate", "nowhere", "--window", "1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == (0 if "2>" in redirection else 1)


def test_a_command_that_works_on_its_streams(tmp_path: Path, tiny_llama: Path, english: str) -> None:
    """`evaluate` moves stdout to stderr for a while, and libraries print on both."""
    (tmp_path / "text.txt").write_text(english[:20_000])
    arguments = ("--corpus", tmp_path / "text.txt", "--window", 64, "--windows", 4, "--json")
    done = shell("<&- >&- 2>&-", "evaluate", tiny_llama, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    done = shell(">/dev/full", "token", "bob", "--file", file)
    assert (done.returncode, done.stderr) == (2, "error: cannot write: No space left on device\n")
    assert file.read_text() == ""  # nobody has seen the token
    done = shell("2>/dev/full", "token", "bob", "--file", file)
    assert done.returncode == 0
    assert len(done.stdout.split()) == 1
    assert 'name = "bob"' in file.read_text()


def test_nobody_reads_stderr(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "secateur.cli.app", "token", "bob", "--file", tmp_path / "tokens.toml"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=write_end, text=True, check=False)
    os.close(write_end)
    assert done.returncode == 0
    assert 'name = "bob"' in (tmp_path / "tokens.toml").read_text()


@pytest.mark.skipif(not on_cpu(), reason="only vLLM's CPU build warns")
@pytest.mark.parametrize(("first", "warned"), [("import secateur.cli.app", False), ("", True)])
def test_engines_do_not_warn_about_triton(first: str, warned: bool) -> None:
    """In an engine's process, which starts as ours did; once vLLM alone is quiet, `quieten_engine` may go."""
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\nimport vllm.triton_utils"],
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ("Disabling Triton" in done.stderr) == warned
