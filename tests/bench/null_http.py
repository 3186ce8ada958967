"""An OpenAI-compatible server without a model: streams made-up tokens at a set pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web


@dataclass
class HttpBehaviour:
    """What the server does.

    Attributes:
        ttft, itl: seconds until the first token, and between tokens.
        tokenizes: whether it has vLLM's ``/tokenize``.
        refuse: a status for every request, or None.
        cut_after: tokens after which the connection is closed, or None.
    """

    ttft: float = 0.0
    itl: float = 0.0
    tokenizes: bool = True
    refuse: int | None = None
    cut_after: int | None = None


@asynccontextmanager
async def null_http(behaviour: HttpBehaviour) -> AsyncIterator[str]:
    """Run it on this event loop; yields its address. Its model is called ``null``."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "null"}]})

    async def tokenize(request: web.Request) -> web.Response:
        if not behaviour.tokenizes:
            raise web.HTTPNotFound
        return web.json_response({"tokens": list(range(100, 400))})

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if behaviour.refuse is not None:
            return web.json_response({"error": "refused on purpose"}, status=behaviour.refuse)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        prompt, count = body["prompt"], body["max_tokens"]
        tokens = len(prompt) if isinstance(prompt, list) else max(1, len(prompt) // 5)
        await reply.write(b": a comment\n\n")
        loop = asyncio.get_running_loop()
        due = loop.time() + behaviour.ttft
        for number in range(count):
            if (delay := due - loop.time()) > 0:
                await asyncio.sleep(delay)
            due += behaviour.itl
            if number == behaviour.cut_after:
                assert request.transport is not None
                request.transport.close()
                return reply
            finish = "length" if number == count - 1 else None
            await _event(reply, {"choices": [{"text": "x", "finish_reason": finish}]})
        usage = {"prompt_tokens": tokens, "completion_tokens": count}
        await _event(reply, {"choices": [], "usage": usage})
        await reply.write(b"data: [DONE]\n\n")
        return reply

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/v1/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _event(reply: web.StreamResponse, document: object) -> None:
    await reply.write(b"data: " + json.dumps(document).encode() + b"\n\n")
