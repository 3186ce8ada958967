"""How much `secateur bench`'s load generator can take: streamed messages per second, and what it adds.

    python -m benchmarks.generator_ceiling

A null server (tests/bench/null_server.py, null_http.py: no model, made-up tokens) runs in a process of its
own, the generator in this one. First as fast as it can, at several numbers of streams; then at a set pace,
where every millisecond beyond the pace was added by null server, transport and generator together. Writes
benchmarks/results/DEVICE-DATE-generator-ceiling.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.host import cpu, write_result

GOAL = 2000.0  # streamed messages per second, on one core
STREAMS = (1, 8, 32, 128)
TOKENS = 64
PACE = {"ttft": 0.05, "itl": 0.02}  # seconds
PACED_STREAMS = (1, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0)
    seconds = parser.parse_args().seconds
    protocols = {}
    for protocol in ("grpc", "http"):
        with server(protocol) as addresses:
            fast = [_ceiling(addresses["fast"], streams, seconds) for streams in STREAMS]
            paced = [_paced(addresses["paced"], streams, seconds) for streams in PACED_STREAMS]
        protocols[protocol] = {
            "ceiling": fast,
            "paced": paced,
            "most_messages_per_second": max(row["messages_per_second"] for row in fast),
            "most_messages_per_core_second": max(row["messages_per_core_second"] for row in fast),
        }
    result = {
        "device": cpu(),
        "protocol": f"null server in a process of its own, generator in another; {TOKENS} tokens a request, "
        f"a message each; paced: first token after {PACE['ttft']:g} s, then one every {PACE['itl']:g} s",
        "goal_messages_per_second": GOAL,
        "load_average": os.getloadavg()[0],
        "protocols": protocols,
        "reached": protocols["grpc"]["most_messages_per_second"] >= GOAL,
    }
    print(write_result("generator-ceiling", result).read_text(), end="")


@contextmanager
def server(protocol: str) -> Iterator[dict[str, str]]:
    """A null server in another process; addresses of one as fast as it can and one at a set pace."""
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(protocol, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def _serve(protocol: str, pipe: Any) -> None:
    asyncio.run(_serve_grpc(pipe) if protocol == "grpc" else _serve_http(pipe))


async def _serve_grpc(pipe: Any) -> None:
    from tests.bench.null_server import Behaviour, null_server

    async with null_server(fast=Behaviour()) as fast, null_server(paced=Behaviour(**PACE)) as paced:
        pipe.send({"fast": fast, "paced": paced})
        await asyncio.Event().wait()


async def _serve_http(pipe: Any) -> None:
    from tests.bench.null_http import HttpBehaviour, null_http

    async with null_http(HttpBehaviour()) as fast, null_http(HttpBehaviour(**PACE)) as paced:
        pipe.send({"fast": fast, "paced": paced})
        await asyncio.Event().wait()


def _ceiling(address: str, streams: int, seconds: float) -> dict[str, Any]:
    row = _run(address, streams, seconds)
    generator = row["generator"]
    return {
        "streams": streams,
        "messages_per_second": round(row["output_throughput"], 1),
        "cpu_share": generator["cpu_share"],
        "messages_per_core_second": round(row["output_throughput"] / generator["cpu_share"], 1),
    }


def _paced(address: str, streams: int, seconds: float) -> dict[str, Any]:
    row = _run(address, streams, seconds)
    return {
        "streams": streams,
        "messages_per_second": round(row["output_throughput"], 1),
        "cpu_share": row["generator"]["cpu_share"],
        "lag_p99_ms": row["generator"]["lag_p99_ms"],
        "added_to_ttft_ms": {
            name: round(row[f"{name}_ttft_ms"] - PACE["ttft"] * 1e3, 3) for name in ("median", "p99")
        },
        "added_to_itl_ms": {
            name: round(row[f"{name}_itl_ms"] - PACE["itl"] * 1e3, 3) for name in ("median", "p99")
        },
    }


def _run(address: str, streams: int, seconds: float) -> dict[str, Any]:
    from secateur.bench.document import benchmark_document
    from secateur.bench.run import run
    from secateur.client.endpoint import Endpoint
    from secateur.config.bench import BenchOptions
    from secateur.progress import SilentReporter

    options = BenchOptions(
        target=address, concurrency=(streams,), seconds=seconds, input_len=16, output_len=TOKENS
    )

    async def measured() -> Any:
        return await run(options, Endpoint(), None, SilentReporter(), asyncio.Event())

    (row,) = benchmark_document(asyncio.run(measured()))["results"]
    print(
        f"{time.strftime('%H:%M:%S')} {address} {row['label']}: {row['output_throughput']:.0f} messages/s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
