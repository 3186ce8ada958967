"""The three ways to an engine. Greedy, token ids in, text and token ids out, a message per step."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.serving_overhead.load import Ask

MODEL = "model"


class InProcess:
    """vLLM's AsyncLLM, called where it lives."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def ask(self, ask: Ask) -> AsyncIterator[tuple[int, float | None]]:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=ask.tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt = tokens_input(ask.token_ids)
        async for output in self._engine.generate(prompt, sampling, str(uuid.uuid4())):
            (completion,) = output.outputs
            stats = output.metrics if output.finished else None
            engine = 1e3 * (stats.first_token_ts - stats.queued_ts) if stats else None
            yield len(completion.token_ids), engine


class Grpc:
    """secateur.v1.InferenceService, with generated stubs."""

    def __init__(self, address: str) -> None:
        import grpc

        from secateur.v1 import inference_pb2_grpc

        self._channel = grpc.aio.insecure_channel(address)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def ask(self, ask: Ask) -> AsyncIterator[tuple[int, float | None]]:
        from secateur.v1 import inference_pb2

        request = inference_pb2.GenerateRequest(
            model=MODEL,
            token_ids=inference_pb2.TokenIds(ids=ask.token_ids),
            sampling=inference_pb2.SamplingParameters(
                temperature=0.0, max_tokens=ask.tokens, ignore_eos=True
            ),
        )
        async for response in self._stub.StreamGenerate(request, timeout=600):
            timings = response.timings if response.finish_reason else None
            yield len(response.token_ids), (timings.queue_ms + timings.prefill_ms if timings else None)

    async def close(self) -> None:
        await self._channel.close()


class Http:
    """/v1/completions of vLLM's OpenAI server."""

    def __init__(self, address: str) -> None:
        import aiohttp

        self._url = f"http://{address}/v1/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def ask(self, ask: Ask) -> AsyncIterator[tuple[int, float | None]]:
        body = {
            "model": MODEL,
            "prompt": ask.token_ids,
            "temperature": 0.0,
            "max_tokens": ask.tokens,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
        async with self._session.post(self._url, json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    yield len(choice["token_ids"] or ()), None

    async def close(self) -> None:
        await self._session.close()


REMOTE = {"grpc": Grpc, "http": Http}
