"""How late the server's event loop is while a second engine starts under load: a server with a probe in it.

python -m tests.serve.models.loop_lag FIRST_FOLDER SECOND_FOLDER STATE_FOLDER [streams]

prints one JSON document. The load and the swap come from another process, which shares no lock with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

INTERVAL = 0.005
STREAMS = 4


class Probe:
    """Sleeps a little, over and over, and notes how much later than asked it wakes up."""

    def __init__(self) -> None:
        self.lags: list[tuple[float, float]] = []

    async def run(self) -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(INTERVAL)
            self.lags.append((started, time.monotonic() - started - INTERVAL))

    def between(self, start: float, end: float) -> dict[str, float]:
        """Percentiles in milliseconds, of what something that came at any moment had to wait.

        One long halt is one sample here, but many moments: those that were missed are filled in.
        """
        lags = sorted(
            1e3 * (lag - missed * INTERVAL)
            for at, lag in self.lags
            if start <= at < end
            for missed in range(1 + int(lag / INTERVAL))
        )
        wakes = sorted(1e3 * lag for at, lag in self.lags if start <= at < end)
        ranks = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        found = {name: round(lags[int(rank * len(lags))], 2) for name, rank in ranks.items()}
        found["p99_of_wakes"] = round(wakes[int(0.99 * len(wakes))], 2)
        return {**found, "max": round(lags[-1], 2), "samples": len(lags), "seconds": round(end - start, 1)}


async def measure(first: Path, second: Path, state: Path, streams: int) -> dict[str, Any]:
    """Serve, let the other process load, and return the lags of both phases."""
    from secateur.config.serve import EngineOptions, ServeOptions
    from secateur.serve.server import ServerReady, serve

    probe = Probe()
    clients: list[subprocess.Popen[str]] = []

    def ready(server: ServerReady) -> None:
        arguments = [server.address, str(second), str(streams)]
        command = [sys.executable, "-m", "tests.serve.models.loop_lag", "--client", *arguments]
        clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    options = ServeOptions(
        models={"m": first},
        listen="127.0.0.1:0",
        engine=EngineOptions(kv_cache_bytes=64 * 2**20, max_sequences=8),
        state_dir=state,
        roots=(second.resolve().parent,),
    )
    tasks = [asyncio.create_task(probe.run())]
    serving = asyncio.create_task(serve(options, ready, lambda line: print(line, file=sys.stderr)))
    try:
        while not clients and not serving.done():
            await asyncio.sleep(0.1)
        while clients and clients[0].poll() is None:
            await asyncio.sleep(0.1)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        for task in tasks:
            task.cancel()
    assert clients[0].stdout is not None
    times = json.loads(clients[0].stdout.read())
    start, end = times["load"], times["loaded"]
    late = sorted((-lag, at) for at, lag in probe.lags if start <= at < end)
    return {
        "before": probe.between(times["streaming"], times["load"]),
        "loading": probe.between(start, end),
        "swapping": probe.between(times["loaded"], times["end"]),
        "worst_while_loading": [(round(at - start, 2), round(-1e3 * lag)) for lag, at in late[:8]],
        "answers": times["answers"],
        "failures": times["failures"],
    }


def client(address: str, folder: str, streams: int) -> dict[str, Any]:
    """Stream, load, activate; return when."""
    from secateur.client import Client
    from tests.serve.models.streams import Streams

    times: dict[str, Any] = {}
    with Client(address, 300) as connected, Streams(address, "m", streams) as running:
        running.answered("1", streams)
        times["streaming"] = time.monotonic()
        time.sleep(5)
        times["load"] = time.monotonic()
        connected.models.load("m", folder)
        times["loaded"] = time.monotonic()
        connected.models.activate("m", "2")
        running.answered("2", 2 * streams)
        times["end"] = time.monotonic()
    return {**times, "answers": dict(running.answers), "failures": running.failures}


if __name__ == "__main__":
    if sys.argv[1] == "--client":
        print(json.dumps(client(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        folders = [Path(argument) for argument in sys.argv[1:4]]
        count = int(sys.argv[4]) if len(sys.argv) > 4 else STREAMS
        print(json.dumps(asyncio.run(measure(*folders, count)), indent=2))
