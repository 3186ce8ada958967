"""A `secateur serve`, over gRPC."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateur.bench.load.prompt import BenchmarkPrompt, BenchmarkRequest
from secateur.bench.load.record import EngineTimings, StreamedResponse
from secateur.bench.load.target import RequestFailed
from secateur.bench.models import ModelInfo
from secateur.bench.targets.channels import open_channel, translate_errors
from secateur.client.endpoint import Endpoint
from secateur.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

PART_CHARACTERS = 2**18  # what Tokenize takes in any case
ABORTED = inference_pb2.FINISH_REASON_ABORT


class SecateurTarget:
    """Streams token ids; see `Target`.

    Args:
        endpoint: where it is and how to call it, without retries.
    """

    kind = "secateur gRPC"
    takes_tokens = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.target
        self._call = {"timeout": endpoint.timeout, "metadata": endpoint.metadata}
        self._channel = open_channel(endpoint)
        self._inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = models_pb2_grpc.ModelServiceStub(self._channel)

    async def stream(self, model: str, request: BenchmarkRequest, answer: StreamedResponse) -> None:
        """Send a request and note when its tokens arrive."""
        sent = inference_pb2.GenerateRequest(
            model=model,
            sampling=inference_pb2.SamplingParameters(
                temperature=0.0, max_tokens=request.output_tokens, ignore_eos=request.ignore_eos
            ),
            **_prompt(request.prompt),
        )
        last = None
        async with translate_errors(self._channel):
            async for response in self._inference.StreamGenerate(sent, **self._call):
                if tokens := len(response.token_ids):
                    answer.received(tokens)
                last = response
        if last is None or not last.finish_reason:
            raise RequestFailed("CUT_OFF", "the stream ended before the answer did")
        _conclude(answer, last)

    async def tokenize(self, model: str, text: str) -> list[int] | None:
        """Token ids of a text, in parts that every server takes."""
        token_ids: list[int] = []
        for start in range(0, len(text), PART_CHARACTERS):
            part = text[start : start + PART_CHARACTERS]
            request = inference_pb2.TokenizeRequest(model=model, text=part)
            async with translate_errors(self._channel):
                response = await self._inference.Tokenize(request, **self._call)
            token_ids += response.token_ids
        return token_ids

    async def describe(self, model: str) -> ModelInfo:
        """What ModelService says."""
        request = models_pb2.GetModelRequest(name=model)
        async with translate_errors(self._channel):
            response = await self._models.GetModel(request, **self._call)
        return _facts(response.model)

    async def close(self) -> None:
        await self._channel.close()


def _prompt(prompt: BenchmarkPrompt) -> dict[str, Any]:
    if prompt.token_ids is not None:
        return {"token_ids": inference_pb2.TokenIds(ids=prompt.token_ids)}
    return {"text": prompt.text}


def _conclude(answer: StreamedResponse, last: inference_pb2.StreamGenerateResponse) -> None:
    """Take over what only the last message says."""
    answer.prompt_tokens = last.usage.prompt_tokens
    answer.output_tokens = last.usage.completion_tokens
    answer.cached_tokens = last.usage.cached_prompt_tokens
    if last.HasField("timings"):
        timings = last.timings
        answer.engine = EngineTimings(timings.queue_ms, timings.prefill_ms, timings.decode_ms)
    if last.finish_reason == ABORTED:
        raise RequestFailed("ABORTED_BY_SERVER", "the server ended the answer early")


def _facts(model: models_pb2.Model) -> ModelInfo:
    """What the server says of a model, and of the checkpoint of its active version."""
    info = ModelInfo(
        name=model.name, version=model.active_version, architecture=model.architecture, dtype=model.dtype
    )
    active = [version for version in model.versions if version.version == model.active_version]
    if not active:
        return info
    checkpoint = active[0].checkpoint
    perplexity = {one.corpus: one.slim for one in checkpoint.perplexities if one.HasField("slim")}
    return replace(
        info,
        parameters=checkpoint.kept_parameters.total or None,
        weight_bytes=checkpoint.weight_bytes or None,
        perplexity=perplexity,
    )
