"""A synchronous client of `secateur serve`: one prompt in, text and timings out.

with Client("127.0.0.1:50051") as client:
    for event in client.generate("slim", "Once upon a time", max_tokens=64):
        print(event.text, end="", flush=True)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc

from secateur.client.connection import TIMEOUT_SECONDS, CallFailed, Connection
from secateur.client.jobs import Jobs
from secateur.client.models import Models
from secateur.v1 import inference_pb2, inference_pb2_grpc

FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_ABORT: "abort",
}
Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or a conversation of ``{"role": ..., "content": ...}``."""


@dataclass(frozen=True)
class Event:
    """What one message brought.

    Attributes:
        text: new text; may be empty.
        token_ids: new tokens.
        seconds: since the request was sent.
        response: the message itself; its last one has finish reason, usage and the engine's timings.
    """

    text: str
    token_ids: tuple[int, ...]
    seconds: float
    response: inference_pb2.StreamGenerateResponse = field(repr=False)


@dataclass(frozen=True)
class Completion:
    """A whole answer, and how fast it came.

    Attributes:
        ttft_ms: from sending the request to the first token.
        tokens_per_second: of the tokens after the first message; None if there were none.
        seconds: from sending the request to the end.
    """

    model: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float
    tokens_per_second: float | None
    seconds: float

    @classmethod
    def of(cls, events: Iterable[Event]) -> Completion:
        """Put together what `Client.generate` yielded; at least one event."""
        received = list(events)
        last = received[-1]
        timed = [event for event in received if event.token_ids] or [last]
        first, final = timed[0], timed[-1]
        later = sum(len(event.token_ids) for event in timed[1:])
        return cls(
            model=last.response.model,
            text="".join(event.text for event in received),
            token_ids=tuple(token for event in received for token in event.token_ids),
            finish_reason=FINISH_REASONS.get(last.response.finish_reason, "unknown"),
            prompt_tokens=last.response.usage.prompt_tokens,
            completion_tokens=last.response.usage.completion_tokens,
            ttft_ms=first.seconds * 1e3,
            tokens_per_second=later / (final.seconds - first.seconds) if later else None,
            seconds=last.seconds,
        )


class Client:
    """A connection to a server.

    Args:
        target: ``HOST:PORT`` or ``unix:PATH``.
        timeout: deadline of each call, in seconds.

    Every method raises `CallFailed` when the call does. What concerns the models is in ``models``,
    prune jobs are in ``jobs``.
    """

    def __init__(self, target: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self._connection = Connection(target, timeout)
        self._inference = inference_pb2_grpc.InferenceServiceStub(self._connection.channel)
        self.models = Models(self._connection)
        self.jobs = Jobs(self._connection)

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._connection.target

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; calls in flight are cancelled."""
        self._connection.close()

    def generate(self, model: str, prompt: Prompt, **sampling: Any) -> Iterator[Event]:
        """Yield the answer as it is generated; leaving the loop early cancels the request.

        Args:
            model: name of the model; "" for the only one.
            prompt: see `Prompt`.
            sampling: fields of ``SamplingParameters`` (inference.proto); None = not given.
        """
        request = inference_pb2.GenerateRequest(model=model, sampling=_sampling(sampling), **_prompt(prompt))
        started = time.perf_counter()
        call = self._inference.StreamGenerate(request, timeout=self._connection.timeout)
        try:
            for response in call:
                seconds = time.perf_counter() - started
                yield Event(response.text_delta, tuple(response.token_ids), seconds, response)
        except grpc.RpcError as error:
            raise CallFailed(self.target, error) from error
        finally:
            call.cancel()

    def complete(self, model: str, prompt: Prompt, **sampling: Any) -> Completion:
        """Return the whole answer; arguments as of `generate`."""
        return Completion.of(self.generate(model, prompt, **sampling))

    def score(self, model: str, text: str | Sequence[int]) -> tuple[list[int], list[float]]:
        """Return the token ids of a text, and the log-probability of each but the first."""
        request = inference_pb2.ScoreRequest(model=model, inputs=[inference_pb2.ScoreInput(**_prompt(text))])
        (score,) = self._connection.call(self._inference.Score, request).scores
        return list(score.token_ids), list(score.logprobs)

    def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        """Return the token ids that `generate` would see."""
        request = inference_pb2.TokenizeRequest(model=model, **_prompt(prompt))
        return list(self._connection.call(self._inference.Tokenize, request).token_ids)


def _prompt(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"text": prompt}
    if prompt and isinstance(prompt[0], Mapping):
        messages = [inference_pb2.ChatMessage(role=m["role"], content=m["content"]) for m in prompt]  # type: ignore[index]
        return {"chat": inference_pb2.Chat(messages=messages)}
    return {"token_ids": inference_pb2.TokenIds(ids=prompt)}  # type: ignore[arg-type]


def _sampling(given: Mapping[str, Any]) -> inference_pb2.SamplingParameters:
    unknown = set(given) - set(inference_pb2.SamplingParameters.DESCRIPTOR.fields_by_name)
    if unknown:
        raise TypeError(f"no such sampling parameter: {', '.join(sorted(unknown))}")
    return inference_pb2.SamplingParameters(**{k: v for k, v in given.items() if v is not None})
