"""secateur.v1.InferenceService: generate, score, tokenize."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from secateur.serve.engine.engine import Engine
from secateur.serve.failures import Violation, invalid, reported, unavailable
from secateur.serve.inference.sampling import engine_parameters
from secateur.serve.models.pool import Pool, ServedModel
from secateur.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

FINISH_REASONS = {
    "stop": inference_pb2.FINISH_REASON_STOP,
    "length": inference_pb2.FINISH_REASON_LENGTH,
    "abort": inference_pb2.FINISH_REASON_ABORT,
}


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Answers for every model of the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @reported
    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.GenerateResponse:
        """Return a whole continuation."""
        whole = inference_pb2.Completion()
        response = inference_pb2.GenerateResponse()
        async with aclosing(self._generate(request)) as messages:
            async for message in messages:
                whole.text += message.text_delta
                whole.token_ids.extend(message.token_ids)
                whole.logprobs.extend(message.logprobs)
                if message.finish_reason:
                    whole.finish_reason = message.finish_reason
                    whole.stop_match = message.stop_match
                    response.usage.CopyFrom(message.usage)
                    response.timings.CopyFrom(message.timings)
                    response.model, response.model_version = message.model, message.model_version
        response.completions.append(whole)
        return response

    # Handlers write to the context instead of yielding: a cancelled call then raises inside the
    # handler, which frees the request at once, not when a forgotten generator is collected.
    @reported
    async def StreamGenerate(
        self, request: inference_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """Stream a continuation."""
        async with aclosing(self._generate(request)) as messages:
            async for message in messages:
                await context.write(message)

    async def _generate(
        self, request: inference_pb2.GenerateRequest
    ) -> AsyncGenerator[inference_pb2.StreamGenerateResponse]:
        model = self._pool.find(request.model, request.model_version)
        engine = model.ready_engine()
        token_ids = await _prompt(engine, request)
        room = engine.max_model_len - len(token_ids)
        parameters = engine_parameters(request.sampling, engine.vocabulary, room)
        with model.request(len(token_ids)) as accounting:
            async with aclosing(engine.generate(token_ids, parameters)) as outputs:
                async for output in outputs:
                    accounting.generated(len(output.outputs[0].token_ids))
                    response = _response(output, model, parameters["logprobs"])
                    if output.finished:
                        _conclude(response, output, accounting.generated_tokens)
                        if response.finish_reason != inference_pb2.FINISH_REASON_ABORT:
                            accounting.complete()
                    yield response

    @reported
    async def Score(
        self, request: inference_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.ScoreResponse:
        """Score a text token by token."""
        model = self._pool.find(request.model, request.model_version)
        engine = model.ready_engine()
        token_ids = await _prompt(engine, request, least=2)
        with model.request(len(token_ids)) as accounting:
            logprobs = await engine.score(token_ids)
            accounting.complete()
        return inference_pb2.ScoreResponse(
            token_ids=token_ids, logprobs=logprobs, model=model.name, model_version=model.version
        )

    @reported
    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.TokenizeResponse:
        """Return a prompt's token ids."""
        model = self._pool.find(request.model, request.model_version)
        token_ids = await _read(model.ready_engine(), request)
        return inference_pb2.TokenizeResponse(
            token_ids=token_ids, model=model.name, model_version=model.version
        )


async def _prompt(engine: Engine, request: Any, least: int = 1) -> list[int]:
    """Return the prompt's token ids, at least ``least``, leaving room for one more."""
    token_ids = await _read(engine, request)
    kind = _kind(request)
    if len(token_ids) < least:
        raise invalid(Violation(kind, f"got {len(token_ids)} tokens, at least {least}"))
    if len(token_ids) >= engine.max_model_len:
        most = engine.max_model_len - 1
        raise invalid(Violation(kind, f"got {len(token_ids)} tokens, the model has room for {most}"))
    return token_ids


async def _read(engine: Engine, request: Any) -> list[int]:
    kind = _kind(request)
    if kind == "text":
        return await engine.tokenize(request.text)
    if kind == "chat":
        return await engine.tokenize_chat(_messages(request.chat.messages))
    unknown = [token for token in request.token_ids.ids if token >= engine.vocabulary]
    if unknown:
        raise invalid(Violation("token_ids", f"got {unknown[0]}, ids go from 0 to {engine.vocabulary - 1}"))
    return list(request.token_ids.ids)


def _kind(request: Any) -> str:
    """Return which of text, token_ids and chat the request gives."""
    (oneof,) = (one for one in request.DESCRIPTOR.oneofs if one.name in ("prompt", "input"))
    kind = request.WhichOneof(oneof.name)
    if kind is None:
        raise invalid(Violation(oneof.name, f"give one of {', '.join(field.name for field in oneof.fields)}"))
    return str(kind)


def _messages(messages: Iterable[inference_pb2.ChatMessage]) -> list[dict[str, str]]:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    if not conversation:
        raise invalid(Violation("chat.messages", "at least one message"))
    return conversation


def _response(
    output: RequestOutput, model: ServedModel, top: int | None
) -> inference_pb2.StreamGenerateResponse:
    """Return what is new in an output."""
    completion = output.outputs[0]
    response = inference_pb2.StreamGenerateResponse(
        text_delta=completion.text,
        token_ids=completion.token_ids,
        model=model.name,
        model_version=model.version,
    )
    if top is not None and completion.logprobs:
        for token, candidates in zip(completion.token_ids, completion.logprobs, strict=True):
            response.logprobs.append(_token_logprobs(token, candidates, top))
    return response


def _token_logprobs(token: int, candidates: Mapping[int, Any], top: int) -> inference_pb2.TokenLogprobs:
    likeliest = sorted(candidates.items(), key=lambda item: -item[1].logprob)[:top]
    return inference_pb2.TokenLogprobs(
        token_id=token,
        logprob=candidates[token].logprob,
        top=[inference_pb2.TokenLogprob(token_id=id_, logprob=found.logprob) for id_, found in likeliest],
    )


def _conclude(response: inference_pb2.StreamGenerateResponse, output: RequestOutput, generated: int) -> None:
    """Add to the last message what only it has."""
    completion = output.outputs[0]
    if completion.finish_reason not in FINISH_REASONS:
        raise unavailable("GENERATION_FAILED", f"the engine gave up: {completion.finish_reason}")
    response.finish_reason = FINISH_REASONS[completion.finish_reason]
    if completion.stop_reason is not None:
        response.stop_match = str(completion.stop_reason)
    response.usage.prompt_tokens = len(output.prompt_token_ids or ())
    response.usage.completion_tokens = generated
    response.usage.cached_prompt_tokens = output.num_cached_tokens or 0
    stats = output.metrics
    if stats is not None and stats.first_token_ts:
        response.timings.queue_ms = 1e3 * (stats.scheduled_ts - stats.queued_ts)
        response.timings.prefill_ms = 1e3 * (stats.first_token_ts - stats.scheduled_ts)
        response.timings.decode_ms = 1e3 * (stats.last_token_ts - stats.first_token_ts)
