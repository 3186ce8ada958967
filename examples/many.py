"""Ask many things at once. Usage: python many.py [STREAMS [ADDRESS]]."""

import asyncio
import sys
import time

from secateur.client import AsyncClient


async def main(streams: int, address: str) -> None:
    """Ask, wait for all, and say how fast it went."""
    async with AsyncClient(address, timeout=60, wait_for_ready=True) as client:
        started = time.perf_counter()
        answers = await asyncio.gather(
            *(
                client.complete("", f"Story {number}. Once upon a time", max_tokens=32)
                for number in range(streams)
            )
        )
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    print(f"{streams} answers, {tokens} tokens, {tokens / (time.perf_counter() - started):.0f} tokens/s")
    print(f"the first: {answers[0].text!r}, by version {answers[0].model_version} of {answers[0].model}")


asyncio.run(
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 8,
        sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:50051",
    )
)
