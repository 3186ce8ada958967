"""What an operator's signals do to a running server."""

from __future__ import annotations

import os
import signal

from secateur.client import Client
from secateur.serve.process import ServerProcess


def test_a_hang_up_ends_no_server(server: ServerProcess, client: Client) -> None:
    """SIGHUP reloads the tokens; a server without any has nothing to reload."""
    os.kill(server.process.pid, signal.SIGHUP)
    answer = client.complete("stock", "It was", max_tokens=2, ignore_eos=True)
    assert answer.usage.completion_tokens == 2
    assert server.process.poll() is None
