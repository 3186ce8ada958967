"""Between the messages of secateur.v1.InferenceService and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.inference.generation import (
    ABORT,
    LENGTH,
    STOP,
    CompletionChunk,
    GenerationSummary,
    PositionLogprobs,
)
from secateur.serve.inference.prompt import MAX_MESSAGES, ChatMessage, GenerationPrompt
from secateur.serve.inference.sampling import SamplingSettings
from secateur.serve.inference.scoring import TextScore
from secateur.serve.models.version import ModelVersion
from secateur.v1 import inference_pb2

FINISH_REASONS = {
    None: inference_pb2.FINISH_REASON_UNSPECIFIED,
    STOP: inference_pb2.FINISH_REASON_STOP,
    LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    ABORT: inference_pb2.FINISH_REASON_ABORT,
}
SAMPLING_PREFIX = "sampling."


def read_prompt(request: Any, oneof: str = "prompt", prefix: str = "") -> GenerationPrompt:
    """Return the prompt of a request.

    Args:
        request: a message with that oneof, of text, token_ids and chat.
        oneof: its name.
        prefix: of its fields in the whole request.

    Raises:
        RpcError: INVALID_ARGUMENT when none is given.
    """
    kind = request.WhichOneof(oneof)
    if kind is None:
        fields = request.DESCRIPTOR.oneofs_by_name[oneof].fields
        names = ", ".join(field.name for field in fields)
        raise invalid_argument(FieldViolation(prefix + oneof, f"nothing given: give one of {names}"))
    field = prefix + str(kind)
    if kind == "text":
        return GenerationPrompt(field, text=request.text)
    if kind == "token_ids":
        return GenerationPrompt(field, token_ids=request.token_ids.ids)
    if len(request.chat.messages) > MAX_MESSAGES:
        complaint = f"got {len(request.chat.messages)}, at most {MAX_MESSAGES}"
        raise invalid_argument(FieldViolation(f"{field}.messages", complaint))
    return GenerationPrompt(
        field, messages=[ChatMessage(one.role, one.content) for one in request.chat.messages]
    )


def read_sampling(sampling: inference_pb2.SamplingParameters) -> SamplingSettings:
    """Return the parameters given, and the defaults of the others."""
    set_fields = {field.name: value for field, value in sampling.ListFields()}
    for name in ("stop", "stop_token_ids"):
        set_fields[name] = tuple(set_fields.get(name, ()))
    return SamplingSettings(**set_fields)


def stream_response(piece: CompletionChunk, model: ModelVersion) -> inference_pb2.StreamGenerateResponse:
    """Return the message that carries a piece."""
    response = inference_pb2.StreamGenerateResponse(
        index=piece.index,
        text_delta=piece.text,
        token_ids=piece.token_ids,
        model=model.name,
        model_version=model.version,
    )
    if piece.logprobs:
        response.logprobs.extend(map(_token_logprobs, piece.logprobs))
    if piece.finish_reason is not None:
        response.finish_reason = FINISH_REASONS[piece.finish_reason]
        response.stop_match = piece.stop_match
    if piece.summary is not None:
        _conclude(response, piece.summary)
    return response


def whole_response(pieces: Sequence[CompletionChunk], model: ModelVersion) -> inference_pb2.GenerateResponse:
    """Return the message that carries whole completions."""
    response = inference_pb2.GenerateResponse(
        completions=[
            inference_pb2.Completion(
                index=piece.index,
                text=piece.text,
                token_ids=piece.token_ids,
                logprobs=map(_token_logprobs, piece.logprobs),
                finish_reason=FINISH_REASONS[piece.finish_reason],
                stop_match=piece.stop_match,
            )
            for piece in pieces
        ],
        model=model.name,
        model_version=model.version,
    )
    for piece in pieces:
        if piece.summary is not None:
            _conclude(response, piece.summary)
    return response


def score_response(scores: Sequence[TextScore], model: ModelVersion) -> inference_pb2.ScoreResponse:
    """Return the message that carries scores."""
    return inference_pb2.ScoreResponse(
        scores=[
            inference_pb2.Score(
                token_ids=score.token_ids, logprobs=score.logprobs, perplexity=score.perplexity
            )
            for score in scores
        ],
        model=model.name,
        model_version=model.version,
    )


def _token_logprobs(logprobs: PositionLogprobs) -> inference_pb2.TokenLogprobs:
    return inference_pb2.TokenLogprobs(
        token_id=logprobs.chosen.token_id,
        logprob=logprobs.chosen.logprob,
        top=[inference_pb2.TokenLogprob(token_id=one.token_id, logprob=one.logprob) for one in logprobs.top],
    )


def _conclude(
    response: inference_pb2.StreamGenerateResponse | inference_pb2.GenerateResponse,
    summary: GenerationSummary,
) -> None:
    """Add what is known at the end."""
    response.usage.CopyFrom(inference_pb2.Usage(**summary.usage._asdict()))
    if summary.timings is not None:
        response.timings.CopyFrom(inference_pb2.EngineTimings(**summary.timings._asdict()))
