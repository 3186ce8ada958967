"""An OpenAI-compatible HTTP server, such as vLLM's: ``/v1/completions`` with server-sent events."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from secateur.bench.load.prompt import BenchmarkRequest
from secateur.bench.load.record import StreamedResponse
from secateur.bench.load.target import NOT_REACHABLE, RequestFailed
from secateur.bench.models import ModelInfo
from secateur.client.endpoint import Endpoint

DATA, DONE = b"data:", b"[DONE]"


class OpenAITarget:
    """Streams completions; see `Target`.

    Prompts are token ids where the server tokenizes for us (vLLM does); otherwise text.

    Args:
        address: ``http://HOST:PORT``, with or without a path before ``/v1``.
        endpoint: how to call it.
    """

    kind = "OpenAI HTTP"
    takes_tokens = True

    def __init__(self, address: str, endpoint: Endpoint) -> None:
        self.address = address
        self._root = address.rstrip("/").removesuffix("/v1")
        self._headers = dict(endpoint.metadata)
        self._ssl = _context(endpoint)
        self._timeout = endpoint.timeout
        self._opened: aiohttp.ClientSession | None = None

    async def stream(self, model: str, request: BenchmarkRequest, answer: StreamedResponse) -> None:
        """Send a request and note when its tokens arrive."""
        prompt = request.prompt
        body = {
            "model": model,
            "prompt": list(prompt.token_ids) if prompt.token_ids is not None else prompt.text,
            "max_tokens": request.output_tokens,
            "temperature": 0,
            "ignore_eos": request.ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        finished = False
        async with self._failures(), self._session().post(f"{self._root}/v1/completions", json=body) as reply:
            await _check(reply)
            # Lines end with the chunk they came in: none waits for the next one.
            async for line in reply.content:
                if not line.startswith(DATA):
                    continue  # comments and blank lines
                data = line[len(DATA) :].strip()
                if data == DONE:
                    finished = True
                    break
                finished = _read(json.loads(data), answer) or finished
        if not finished:
            raise RequestFailed("CUT_OFF", "the stream ended before the answer did")

    async def tokenize(self, model: str, text: str) -> list[int] | None:
        """Token ids by vLLM's ``/tokenize``; None where there is no such thing."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        async with self._failures(), self._session().post(f"{self._root}/tokenize", json=body) as reply:
            if reply.status in (404, 405):
                return None
            await _check(reply)
            return list((await reply.json())["tokens"])

    async def describe(self, model: str) -> ModelInfo:
        """A model of ``/v1/models``."""
        async with self._failures(), self._session().get(f"{self._root}/v1/models") as reply:
            await _check(reply)
            names = [entry["id"] for entry in (await reply.json())["data"]]
        if not model and len(names) == 1:
            return ModelInfo(names[0])
        if model not in names:
            raise RequestFailed("NOT_FOUND", f"no model {model!r}; there are: {', '.join(names)}")
        return ModelInfo(model)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        # Made on first use: it belongs to the event loop that runs then.
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl),
            )
        return self._opened

    @asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise RequestFailed("DEADLINE_EXCEEDED", f"no end after {self._timeout:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise RequestFailed("UNAVAILABLE", f"{NOT_REACHABLE} ({error})") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise RequestFailed("CUT_OFF", f"{type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RequestFailed("UNREADABLE", f"{type(error).__name__}: {error}") from error


def _read(chunk: Mapping[str, Any], answer: StreamedResponse) -> bool:
    """Take over an event; True if it was the last with tokens."""
    if "error" in chunk:
        raise RequestFailed("SERVER_ERROR", json.dumps(chunk["error"]))
    finished = False
    for choice in chunk.get("choices") or ():
        answer.received()  # also without text: a token may be half a character
        finished = finished or choice.get("finish_reason") is not None
    if usage := chunk.get("usage"):
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.output_tokens = usage["completion_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        answer.cached_tokens = details.get("cached_tokens")
    return finished


async def _check(reply: aiohttp.ClientResponse) -> None:
    if reply.status != 200:
        text = await reply.text()
        with_reason = f"{reply.reason}: {text[:200]}"
        raise RequestFailed("NOT_FOUND" if reply.status == 404 else f"HTTP_{reply.status}", with_reason)


def _context(endpoint: Endpoint) -> ssl.SSLContext | bool:
    if endpoint.ca is None and endpoint.cert is None:
        return True
    context = ssl.create_default_context(cafile=endpoint.ca)
    if endpoint.cert is not None:
        context.load_cert_chain(endpoint.cert, endpoint.key)
    return context
