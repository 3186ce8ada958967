"""secateur.v1.InferenceService: generate, score, tokenize.

A client that cancels, hangs up or runs out of time cancels the task of its handler; what the handler
waits for then frees the engine (see `generation.generate`).
"""

from __future__ import annotations

from contextlib import aclosing

import grpc

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.inference import generation, scoring
from secateur.serve.inference.generation import check_deadline
from secateur.serve.inference.messages import (
    SAMPLING_PREFIX,
    read_prompt,
    read_sampling,
    score_response,
    stream_response,
    whole_response,
)
from secateur.serve.inference.prompt import MAX_CHARACTERS, check_token_ids
from secateur.serve.inference.sampling import check_priority
from secateur.serve.models.pool import ModelPool, ModelVersion
from secateur.v1 import inference_pb2, inference_pb2_grpc

MAX_SCORED = 128


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Answers for every model of the pool."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.GenerateResponse:
        check_deadline(context)
        model = self._find(request)
        check_priority(request.priority)
        pieces = await generation.complete(
            model,
            read_prompt(request),
            read_sampling(request.sampling),
            priority=request.priority,
            prefix=SAMPLING_PREFIX,
        )
        return whole_response(pieces, model)

    # It writes to the context instead of yielding: a cancelled call then raises inside the handler,
    # which frees the request at once, not when a forgotten generator is collected.
    async def StreamGenerate(
        self, request: inference_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> None:
        check_deadline(context)
        model = self._find(request)
        check_priority(request.priority)
        pieces = generation.generate(
            model,
            read_prompt(request),
            read_sampling(request.sampling),
            priority=request.priority,
            prefix=SAMPLING_PREFIX,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                await context.write(stream_response(piece, model))

    async def Score(
        self, request: inference_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.ScoreResponse:
        """Score texts token by token."""
        check_deadline(context)
        model = self._find(request)
        if not 1 <= len(request.inputs) <= MAX_SCORED:
            raise invalid_argument(
                FieldViolation("inputs", f"got {len(request.inputs)}, allowed is 1 to {MAX_SCORED}")
            )
        texts = [read_prompt(one, "input", f"inputs[{at}].") for at, one in enumerate(request.inputs)]
        return score_response(await scoring.score(model, texts), model)

    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.TokenizeResponse:
        """Return a prompt's token ids."""
        model = self._find(request)
        token_ids = await read_prompt(request).tokens(model.ready_engine())
        return inference_pb2.TokenizeResponse(
            token_ids=token_ids, model=model.name, model_version=model.version
        )

    async def Detokenize(
        self, request: inference_pb2.DetokenizeRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.DetokenizeResponse:
        """Return the text of token ids."""
        model = self._find(request)
        engine = model.ready_engine()
        most = max(MAX_CHARACTERS, engine.max_model_len)
        if len(request.token_ids) > most:
            raise invalid_argument(
                FieldViolation(
                    "token_ids", f"got {len(request.token_ids)}, allowed are {most}: send them in parts"
                )
            )
        check_token_ids("token_ids", request.token_ids, engine.vocabulary)
        text = await engine.detokenize(list(request.token_ids), skip_special=request.skip_special_tokens)
        return inference_pb2.DetokenizeResponse(text=text, model=model.name, model_version=model.version)

    def _find(
        self,
        request: inference_pb2.GenerateRequest
        | inference_pb2.ScoreRequest
        | inference_pb2.TokenizeRequest
        | inference_pb2.DetokenizeRequest,
    ) -> ModelVersion:
        return self._pool.find(request.model, request.model_version)
