"""The commands in README.md and docs/*.md run as they stand, in order, with the real model.

Each document is one shell session in an empty folder. Servers that it starts in the background run until it
ends. A document that says it starts where the README ends gets what the README's commands made.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.documents import CONTINUES, DOCUMENTS, ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PORT = 50051  # where `secateur serve` listens by default: the documents do not say another
MAX_SECONDS = 1800  # of one document, on a busy machine


def scripts(document: Path) -> list[str]:
    return [block.text for block in blocks(document) if block.info == "sh"]


def session(document: Path) -> str:
    """A document's commands as one script that says which block it is at."""
    lines = ["set -eo pipefail"]
    for block in blocks(document):
        if block.info == "sh":
            lines += [f"echo '=== {block.document}:{block.line}' >&2", block.text]
    return "\n".join(lines)


def run(document: Path, folder: Path, state: Path) -> None:
    """Run a document's commands in a folder; ``state`` is for what a server keeps, and the log."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", PORT)) != 0, f"port {PORT} is in use: documents need it"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT / "kernels")]),
        "XDG_STATE_HOME": str(state),
        "TRITON_INTERPRET": "0",
    }
    log = state / f"{document.stem}.log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["/bin/bash", "-c", session(document)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(MAX_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop(shell.pid)
    assert status == 0, f"exit status {status}\n" + log.read_text(errors="replace")[-4000:]


def stop(group: int) -> None:
    """End what a document left running: politely, then not."""
    for sign, seconds in ((signal.SIGTERM, 90), (signal.SIGKILL, 10)):
        until = time.monotonic() + seconds
        try:
            os.killpg(group, sign)
            while time.monotonic() < until:
                os.killpg(group, 0)
                time.sleep(0.2)
        except ProcessLookupError:
            return


@pytest.fixture(scope="module")
def after_readme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's commands were run."""
    folder = tmp_path_factory.mktemp("readme")
    run(ROOT / "README.md", folder, tmp_path_factory.mktemp("state"))
    return folder


def test_readme(after_readme: Path) -> None:
    assert (after_readme / "slim" / "secateur.json").is_file()
    card = (after_readme / "slim" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")


@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS[1:] if scripts(document)], ids=lambda path: path.name
)
def test_document(document: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder, state = tmp_path / "empty", tmp_path / "state"
    state.mkdir()
    if CONTINUES in " ".join(document.read_text(encoding="utf-8").split()):  # lines may break in it
        shutil.copytree(request.getfixturevalue("after_readme"), folder, symlinks=True)
    else:
        folder.mkdir()
    run(document, folder, state)
