"""A server as a child process: started, waited for, and ended with its context.

with served({"slim": folder}) as server:
    with Client(server.address) as client: ...
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from secateur.errors import BackendUnavailable

STOP_SECONDS = 60.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers.

    Attributes:
        address: where.
        document: the JSON that ``secateur serve`` printed.
        process: the child.
    """

    address: str
    document: Mapping[str, Any]
    process: subprocess.Popen[str]


@contextmanager
def served(
    models: Mapping[str, Path], *options: str, stderr: IO[str] | int | None = None
) -> Iterator[ServerProcess]:
    """Run ``secateur serve`` on a free port of this machine until the context ends.

    Args:
        models: name -> checkpoint folder.
        options: further arguments of the command.
        stderr: where the server's own output goes; None = ours.

    Raises:
        BackendUnavailable: it ended before it was ready; its stderr says why.
    """
    arguments = [f"{name}={folder}" for name, folder in models.items()]
    process = start([*arguments, "--listen", "127.0.0.1:0", *options], stderr)
    try:
        document = read_document(process)
        yield ServerProcess(document["address"], document, process)
    finally:
        stop(process)


def start(arguments: Sequence[str], stderr: IO[str] | int | None = None) -> subprocess.Popen[str]:
    """Start ``secateur serve``, to print JSON, with these further arguments."""
    command = [sys.executable, "-m", "secateur.cli.app", "serve", *arguments, "--json"]
    # A group of its own, so that Ctrl-C in a terminal reaches it only through us.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL, text=True, process_group=0
    )


def read_document(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait until the server is ready and return what it printed.

    Raises:
        BackendUnavailable: it ended instead.
    """
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":  # the document is indented: only its end looks like this
            return dict(json.loads(text))
    raise BackendUnavailable(f"secateur serve ended before it was ready (exit status {process.wait()})")


def stop(process: subprocess.Popen[str]) -> int:
    """Ask the server to end, kill it if it does not, and return its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
