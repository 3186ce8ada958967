"""The client's process: reads jobs from stdin, one JSON document a line, and answers each with a line."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from benchmarks.serving_overhead.load import Ask, drive
from benchmarks.serving_overhead.ways import REMOTE


async def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    way = REMOTE[job["way"]](job["address"])
    try:
        answers = await drive(way, [Ask(**ask) for ask in job["asks"]], job["streams"])
    finally:
        await way.close()
    return [answer.to_json() for answer in answers]


async def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps(await run(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
