"""Generate the continuations of a prompt on a model: what every protocol's service calls.

Values in and out are plain and immutable; each service turns them into its own messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.rpc import code_pb2

from secateur.serve.failures import RpcError, unavailable
from secateur.serve.guard.call import current_call, current_principal
from secateur.serve.inference.prompt import GenerationPrompt
from secateur.serve.inference.sampling import SamplingSettings
from secateur.serve.models.version import ModelVersion, RequestTracker

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

STOP, LENGTH, ABORT = "stop", "length", "abort"
FINISH_REASONS = (STOP, LENGTH, ABORT)


class TokenCandidate(NamedTuple):
    """A token that could have been next; ``rank`` 1 is the likeliest."""

    token_id: int
    logprob: float
    rank: int | None
    text: str | None


class PositionLogprobs(NamedTuple):
    """A chosen token, and the likeliest ones, likeliest first."""

    chosen: TokenCandidate
    top: Sequence[TokenCandidate]


class UsageCounts(NamedTuple):
    """Tokens of a request: the prompt's, counted once, and those of all completions."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int


class Timings(NamedTuple):
    """Where the time went, as seen by the engine."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float


class GenerationSummary(NamedTuple):
    """What is known when all completions have ended."""

    usage: UsageCounts
    timings: Timings | None


class CompletionChunk(NamedTuple):
    """What one completion grew by.

    Attributes:
        index: which of the completions.
        text: new text; may be empty.
        token_ids: new tokens.
        logprobs: one per token, if asked for.
        finish_reason: one of `FINISH_REASONS` in the completion's last piece, else None.
        stop_match: the stop text, or the id of the stop token, that ended it; else empty.
        prompt_tokens: of the prompt.
        summary: in the last piece of all, else None.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[PositionLogprobs] = ()
    finish_reason: str | None = None
    stop_match: str = ""
    prompt_tokens: int = 0
    summary: GenerationSummary | None = None


async def generate(
    model: ModelVersion,
    prompt: GenerationPrompt,
    sampling: SamplingSettings,
    *,
    priority: int = 0,
    whole: bool = False,
    prefix: str = "",
) -> AsyncGenerator[CompletionChunk]:
    """Yield the continuations of a prompt as they grow.

    Closing the iterator, or cancelling the task that waits for it, frees the engine within one step.

    Args:
        model: who answers; counts the request and its tokens.
        prompt: what to continue.
        sampling: how.
        priority: higher goes first where the caller's requests have to wait.
        whole: one piece per completion, in their order, when all have ended.
        prefix: of the sampling parameters' names in the request, for complaints.

    Raises:
        RpcError: the request cannot be accepted, or the model cannot answer now.
    """
    engine = model.ready_engine()
    _check_quota(priority)
    with model.request() as accounting:
        sampling.check(engine.vocabulary, prefix)
        token_ids = await prompt.fitting_tokens(engine)
        parameters = sampling.for_engine(engine.max_model_len - len(token_ids))
        accounting.submit([token_ids], parameters)
        aborted = False
        outputs = engine.generate(
            token_ids,
            parameters,
            caller=current_principal(),
            priority=priority,
            whole=whole,
            begin=accounting.begin,
        )
        async with aclosing(outputs):
            async for output in outputs:
                for piece in _pieces(output, sampling.logprobs, accounting):
                    aborted |= piece.finish_reason == ABORT
                    yield piece
        if not aborted:
            accounting.complete()


def _check_quota(priority: int) -> None:
    call = current_call()
    highest = None if call is None else call.caller.quota.priority
    if call is not None and highest is not None and priority > highest:
        message = f"priority: got {priority}, the highest of {call.principal} is {highest}"
        raise RpcError(code_pb2.PERMISSION_DENIED, "PRIORITY_TOO_HIGH", message)


async def complete(
    model: ModelVersion,
    prompt: GenerationPrompt,
    sampling: SamplingSettings,
    *,
    priority: int = 0,
    prefix: str = "",
) -> list[CompletionChunk]:
    """Return one piece per completion, in their order; arguments and errors of `generate`."""
    pieces = generate(model, prompt, sampling, priority=priority, whole=True, prefix=prefix)
    async with aclosing(pieces):
        return [piece async for piece in pieces]


def _pieces(output: RequestOutput, top: int | None, accounting: RequestTracker) -> list[CompletionChunk]:
    """Return what an output brought; completions that grew at the same time share one."""
    accounting.generated(sum(len(completion.token_ids) for completion in output.outputs))
    prompt_tokens = len(output.prompt_token_ids or ())
    pieces = [_piece(completion, top, prompt_tokens) for completion in output.outputs]
    if output.finished:
        pieces[-1] = pieces[-1]._replace(summary=_summary(output, accounting.generated_tokens))
    return pieces


def _piece(completion: CompletionOutput, top: int | None, prompt_tokens: int) -> CompletionChunk:
    token_ids = tuple(completion.token_ids)
    logprobs: tuple[PositionLogprobs, ...] = ()
    if top is not None and completion.logprobs:
        chosen = zip(token_ids, completion.logprobs, strict=True)
        logprobs = tuple(_token_logprobs(token, candidates, top) for token, candidates in chosen)
    reason, stop = completion.finish_reason, completion.stop_reason
    if reason is not None and reason not in FINISH_REASONS:
        raise unavailable("GENERATION_FAILED", f"the engine gave up: {reason}")
    stop_match = "" if stop is None else str(stop)
    return CompletionChunk(
        completion.index, completion.text, token_ids, logprobs, reason, stop_match, prompt_tokens
    )


def _token_logprobs(token: int, logprobs_by_id: Mapping[int, Any], top: int) -> PositionLogprobs:
    candidates = {
        id_: TokenCandidate(id_, one.logprob, one.rank, one.decoded_token)
        for id_, one in logprobs_by_id.items()
    }
    likeliest = sorted(candidates.values(), key=lambda candidate: -candidate.logprob)[:top]
    return PositionLogprobs(candidates[token], tuple(likeliest))


def _summary(output: RequestOutput, generated: int) -> GenerationSummary:
    usage = UsageCounts(len(output.prompt_token_ids or ()), generated, output.num_cached_tokens or 0)
    stats = output.metrics
    if stats is None or not stats.first_token_ts:
        return GenerationSummary(usage, None)
    return GenerationSummary(
        usage,
        Timings(
            queue_ms=1e3 * (stats.scheduled_ts - stats.queued_ts),
            prefill_ms=1e3 * (stats.first_token_ts - stats.scheduled_ts),
            decode_ms=1e3 * (stats.last_token_ts - stats.first_token_ts),
        ),
    )


MIN_SECONDS = 0.005
"""Less than any engine needs for a first token."""


def check_deadline(context: grpc.aio.ServicerContext) -> None:
    """Refuse a call whose deadline has passed or will have before an answer can reach the client.

    Raises:
        RpcError: DEADLINE_EXCEEDED. A client usually notices by itself at the same time; the point is
            that no engine works for it.
    """
    remaining = context.time_remaining()
    if remaining is not None and remaining < MIN_SECONDS:
        raise RpcError(
            code_pb2.DEADLINE_EXCEEDED,
            "DEADLINE_TOO_SHORT",
            f"{max(0.0, remaining) * 1e3:.1f} ms are left until the deadline, "
            f"at least {MIN_SECONDS * 1e3:g} ms are needed",
        )
