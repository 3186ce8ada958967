"""Generate, score, tokenize: what is sent, and the values that come back."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, TypedDict

from google.protobuf.descriptor import FieldDescriptor

from secateur.client.call import RpcCall
from secateur.errors import BadInput
from secateur.v1 import inference_pb2

SERVICE = "secateur.v1.InferenceService"
FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_ABORT: "abort",
}
_MAX_TOKEN_ID = 2**32 - 1  # of the field; the model's is smaller, and the server knows it
_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_UINT32: "whole numbers from 0 up, of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "a whole number of 64 bits",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_STRING: "texts",
}
PromptInput = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or a conversation of ``{"role": ..., "content": ...}``."""


class SamplingOptions(TypedDict, total=False):
    """Fields of ``SamplingParameters`` (inference.proto says what they mean); None = not given."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    max_tokens: int | None
    min_tokens: int | None
    stop: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    seed: int | None
    ignore_eos: bool | None
    logprobs: int | None
    stream_interval: int | None
    n: int | None


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probability of a chosen token, and of the likeliest ones by their ids, likeliest first."""

    token_id: int
    logprob: float
    top: Mapping[int, float]


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of a request: of its prompt, of all completions, and of the prompt those still in the cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0


@dataclass(frozen=True)
class RequestTimings:
    """Where the time went, as seen by the engine."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True)
class StreamEvent:
    """What one message of a stream brought.

    Attributes:
        text: new text; may be empty.
        token_ids: new tokens.
        seconds: since the request was sent.
        response: the message itself; its last one has usage and the engine's timings.
    """

    text: str
    token_ids: tuple[int, ...]
    seconds: float
    response: inference_pb2.StreamGenerateResponse = field(repr=False)

    @property
    def index(self) -> int:
        """Which completion grew."""
        return self.response.index

    @property
    def finish_reason(self) -> str | None:
        """Why the completion ended; None while it goes on."""
        return FINISH_REASONS.get(self.response.finish_reason)

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """One per token, if asked for."""
        return read_logprobs(self.response.logprobs)


@dataclass(frozen=True)
class Completion:
    """One whole continuation.

    Attributes:
        index: its place among the completions of the request.
        finish_reason: ``stop``, ``length``, or ``abort`` if the server ended it.
        stop_match: the stop text, or the id of the stop token, that ended it; else empty.
        logprobs: one per token, if asked for.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stop_match: str = ""
    logprobs: tuple[TokenLogprobs, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class GenerationResult:
    """All completions of a prompt; `text`, `token_ids` and `finish_reason` are those of the first.

    Attributes:
        timings: as seen by the engine; None if it said nothing.
        seconds: from sending the request to the end.
        ttft_ms: from sending the request to the first token; None unless it was streamed.
        tokens_per_second: of the tokens after the first message; None unless streamed, or if there were
            none.
    """

    model: str
    model_version: str
    completions: tuple[Completion, ...]
    usage: TokenUsage
    timings: RequestTimings | None
    seconds: float
    ttft_ms: float | None = None
    tokens_per_second: float | None = None

    @property
    def text(self) -> str:
        """Of the first completion."""
        return self.completions[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of the first completion."""
        return self.completions[0].token_ids

    @property
    def finish_reason(self) -> str:
        """Of the first completion."""
        return self.completions[0].finish_reason

    @classmethod
    def of(cls, events: Iterable[StreamEvent]) -> GenerationResult:
        """Put together what a stream brought; at least one event."""
        received = list(events)
        last = received[-1].response
        timed = [event for event in received if event.token_ids] or received[-1:]
        first, final = timed[0], timed[-1]
        later = sum(len(event.token_ids) for event in timed[1:])
        return cls(
            model=last.model,
            model_version=last.model_version,
            completions=tuple(
                _merge_events(index, [event for event in received if event.index == index])
                for index in sorted({event.index for event in received})
            ),
            usage=_usage(last.usage),
            timings=_timings(last),
            seconds=received[-1].seconds,
            ttft_ms=first.seconds * 1e3,
            tokens_per_second=later / (final.seconds - first.seconds) if later else None,
        )

    @classmethod
    def read(cls, response: inference_pb2.GenerateResponse, seconds: float) -> GenerationResult:
        """Read the answer that came as one message, after so many seconds."""
        return cls(
            model=response.model,
            model_version=response.model_version,
            completions=tuple(
                Completion(
                    index=one.index,
                    text=one.text,
                    token_ids=tuple(one.token_ids),
                    finish_reason=FINISH_REASONS.get(one.finish_reason, "unknown"),
                    stop_match=one.stop_match,
                    logprobs=read_logprobs(one.logprobs),
                )
                for one in response.completions
            ),
            usage=_usage(response.usage),
            timings=_timings(response),
            seconds=seconds,
        )


@dataclass(frozen=True)
class ScoreResult:
    """How likely a model finds a text.

    Attributes:
        token_ids: of the text.
        logprobs: of each token but the first, given those before it.
        perplexity: exp of minus their mean.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    perplexity: float


def stream_generate_call(
    model: str,
    prompt: PromptInput,
    version: str,
    priority: int,
    timeout: float | None,
    sampling: SamplingOptions,
) -> RpcCall[inference_pb2.StreamGenerateResponse]:
    """Return the call that generates, message by message."""
    return RpcCall(
        f"{SERVICE}.StreamGenerate", _generation(model, prompt, version, priority, sampling), timeout=timeout
    )


def generate_call(
    model: str,
    prompt: PromptInput,
    version: str,
    priority: int,
    timeout: float | None,
    sampling: SamplingOptions,
) -> RpcCall[inference_pb2.GenerateResponse]:
    """Return the call that generates, in one message."""
    return RpcCall(
        f"{SERVICE}.Generate", _generation(model, prompt, version, priority, sampling), timeout=timeout
    )


def score(model: str, text: str | Sequence[int], *, version: str = "") -> RpcCall[ScoreResult]:
    """Return the log-probability of each token of a text, or of token ids."""
    several = _score_each(model, {"text": text}, version)
    return RpcCall(several.method, several.request, lambda answer: several.read(answer)[0])


def score_all(
    model: str, texts: Sequence[str | Sequence[int]], *, version: str = ""
) -> RpcCall[list[ScoreResult]]:
    """Return the scores of several texts, in their order; the server computes them side by side."""
    return _score_each(model, {f"texts[{index}]": text for index, text in enumerate(texts)}, version)


def tokenize(model: str, prompt: PromptInput, *, version: str = "") -> RpcCall[list[int]]:
    """Return the token ids that `generate` would see for a text or a conversation."""
    request = inference_pb2.TokenizeRequest(model=model, model_version=version, **_prompt(prompt))
    return RpcCall(f"{SERVICE}.Tokenize", request, lambda answer: list(answer.token_ids))


def detokenize(
    model: str, token_ids: Sequence[int], *, version: str = "", skip_special_tokens: bool = False
) -> RpcCall[str]:
    """Return the text of token ids."""
    request = inference_pb2.DetokenizeRequest(
        model=model,
        model_version=version,
        token_ids=_token_ids(token_ids, "token_ids").ids,
        skip_special_tokens=skip_special_tokens,
    )
    return RpcCall(f"{SERVICE}.Detokenize", request, lambda answer: answer.text)


def read_logprobs(logprobs: Iterable[inference_pb2.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    """Return the values of messages."""
    return tuple(
        TokenLogprobs(one.token_id, one.logprob, {top.token_id: top.logprob for top in one.top})
        for one in logprobs
    )


def _generation(
    model: str, prompt: PromptInput, version: str, priority: int, sampling: SamplingOptions
) -> inference_pb2.GenerateRequest:
    unknown = set(sampling) - set(SamplingOptions.__annotations__)
    if unknown:
        raise TypeError(f"no such sampling parameter: {', '.join(sorted(unknown))}")
    return inference_pb2.GenerateRequest(
        model=model,
        model_version=version,
        priority=priority,
        sampling=_sampling(sampling),
        **_prompt(prompt),
    )


def _sampling(sampling: SamplingOptions) -> inference_pb2.SamplingParameters:
    message = inference_pb2.SamplingParameters()
    for name, value in sampling.items():
        if value is None:
            continue
        # One text is a sequence of texts, too: of its characters.
        set_fields: dict[str, Any] = {name: [value] if name == "stop" and isinstance(value, str) else value}
        try:
            message.MergeFrom(inference_pb2.SamplingParameters(**set_fields))
        except (TypeError, ValueError) as error:
            kind = inference_pb2.SamplingParameters.DESCRIPTOR.fields_by_name[name]
            raise BadInput(name, repr(value), _KINDS[kind.cpp_type]) from error
    return message


def _merge_events(index: int, events: Sequence[StreamEvent]) -> Completion:
    last = events[-1]
    return Completion(
        index=index,
        text="".join(event.text for event in events),
        token_ids=tuple(token for event in events for token in event.token_ids),
        finish_reason=last.finish_reason or "unknown",
        stop_match=last.response.stop_match,
        logprobs=tuple(one for event in events for one in event.logprobs),
    )


def _score_each(
    model: str, texts: Mapping[str, str | Sequence[int]], version: str
) -> RpcCall[list[ScoreResult]]:
    """Return the call that scores texts, by the names that the caller knows them by."""
    inputs = [inference_pb2.ScoreInput(**_prompt(text, name)) for name, text in texts.items()]
    request = inference_pb2.ScoreRequest(model=model, model_version=version, inputs=inputs)
    return RpcCall(f"{SERVICE}.Score", request, _scores)


def _scores(answer: inference_pb2.ScoreResponse) -> list[ScoreResult]:
    return [ScoreResult(tuple(one.token_ids), tuple(one.logprobs), one.perplexity) for one in answer.scores]


def _usage(usage: inference_pb2.Usage) -> TokenUsage:
    return TokenUsage(usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens)


def _timings(
    response: inference_pb2.GenerateResponse | inference_pb2.StreamGenerateResponse,
) -> RequestTimings | None:
    if not response.HasField("timings"):
        return None
    return RequestTimings(response.timings.queue_ms, response.timings.prefill_ms, response.timings.decode_ms)


def _prompt(prompt: PromptInput, field: str = "prompt") -> dict[str, Any]:
    """Return the field of a request for a prompt; ``field`` is the caller's name of it."""
    if isinstance(prompt, str):
        return {"text": prompt}
    if not isinstance(prompt, Sequence):
        raise BadInput(field, reprlib.repr(prompt), "text, token ids, or messages")
    if prompt and isinstance(prompt[0], Mapping):
        messages = [_message(message, f"{field}[{index}]") for index, message in enumerate(prompt)]
        return {"chat": inference_pb2.Chat(messages=messages)}
    return {"token_ids": _token_ids(prompt, field)}


def _message(message: object, field: str) -> inference_pb2.ChatMessage:
    if isinstance(message, Mapping):
        role, content = message.get("role"), message.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return inference_pb2.ChatMessage(role=role, content=content)
    raise BadInput(field, reprlib.repr(message), "a message has a role and a content, both text")


def _token_ids(ids: Iterable[Any], field: str) -> inference_pb2.TokenIds:
    token_ids = list(ids)
    try:
        return inference_pb2.TokenIds(ids=token_ids)
    except (TypeError, ValueError) as error:
        wrong = next((index for index, one in enumerate(token_ids) if not _is_token_id(one)), 0)
        allowed = f"a token id is a number from 0 to {_MAX_TOKEN_ID}"
        raise BadInput(f"{field}[{wrong}]", reprlib.repr(token_ids[wrong]), allowed) from error


def _is_token_id(value: object) -> bool:
    return isinstance(value, SupportsIndex) and 0 <= value.__index__() <= _MAX_TOKEN_ID
