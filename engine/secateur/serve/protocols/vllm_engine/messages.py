"""Between the messages of package vllm.grpc.engine and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smg_grpc_proto import vllm_engine_pb2 as pb

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.inference.generation import CompletionChunk, PositionLogprobs, TokenCandidate
from secateur.serve.inference.prompt import GenerationPrompt
from secateur.serve.inference.sampling import SamplingSettings

SERVICE_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["VllmEngine"]
SAMPLING_PREFIX = "sampling_params."
UNLIMITED_TOKENS = 2**31 - 1
"""As many tokens as the context has room for."""

# Fields that would change the answer; those that only say how text is made of token ids do not.
UNSUPPORTED = (
    "kv_transfer_params",
    "kv_transfer_params_json",
    "mm_inputs",
    "extra_mm_inputs",
    "media_refs",
    "data_parallel_rank",
)
UNSUPPORTED_SAMPLING = (
    "prompt_logprobs",
    "logit_bias",
    "truncate_prompt_tokens",
    "json_schema",
    "regex",
    "grammar",
    "structural_tag",
    "json_object",
    "choice",
)
# In this protocol 0 means that they are not given.
NONZERO_FIELDS = ("top_p", "repetition_penalty", "n")
COPIED_FIELDS = ("top_k", "min_p", "frequency_penalty", "presence_penalty", "min_tokens", "ignore_eos")
OPTIONAL_FIELDS = ("temperature", "logprobs", "seed")


def read_prompt(request: Any) -> GenerationPrompt:
    """Return what is to be continued.

    Raises:
        RpcError: INVALID_ARGUMENT for neither text nor token ids, and for what is not supported.
    """
    set_fields = {field.name for field, _ in request.ListFields()}
    sampling = {field.name for field, _ in request.sampling_params.ListFields()}
    unsupported = [name for name in UNSUPPORTED if name in set_fields]
    unsupported += [SAMPLING_PREFIX + name for name in UNSUPPORTED_SAMPLING if name in sampling]
    if unsupported:
        raise invalid_argument(*(FieldViolation(name, "not supported") for name in unsupported))
    match request.WhichOneof("input"):
        case "text":
            return GenerationPrompt("text", text=request.text)
        case "tokenized":
            return GenerationPrompt("tokenized.input_ids", token_ids=request.tokenized.input_ids)
        case _:
            raise invalid_argument(FieldViolation("input", "give one of tokenized, text"))


def read_sampling(params: Any) -> SamplingSettings:
    """Return how to continue; without ``max_tokens`` until the context is full."""
    sampling_values = {name: getattr(params, name) for name in COPIED_FIELDS}
    sampling_values |= {name: getattr(params, name) for name in NONZERO_FIELDS if getattr(params, name)}
    sampling_values |= {name: getattr(params, name) for name in OPTIONAL_FIELDS if params.HasField(name)}
    return SamplingSettings(
        **sampling_values,
        max_tokens=params.max_tokens if params.HasField("max_tokens") else UNLIMITED_TOKENS,
        stop=tuple(params.stop),
        stop_token_ids=tuple(params.stop_token_ids),
    )


def chunk_message(piece: CompletionChunk) -> Any:
    """Return the message for new tokens."""
    return pb.GenerateResponse(
        chunk=pb.GenerateStreamChunk(
            token_ids=piece.token_ids,
            prompt_tokens=piece.prompt_tokens,
            completion_tokens=len(piece.token_ids),
            output_logprobs=_logprobs(piece.logprobs),
            index=piece.index,
        )
    )


def complete_message(piece: CompletionChunk) -> Any:
    """Return the message that ends a completion; in a stream it repeats the last chunk."""
    ended = pb.GenerateComplete(
        output_ids=piece.token_ids,
        finish_reason=piece.finish_reason,
        prompt_tokens=piece.prompt_tokens,
        completion_tokens=len(piece.token_ids),
        cached_tokens=piece.summary.usage.cached_prompt_tokens if piece.summary else 0,
        output_logprobs=_logprobs(piece.logprobs),
        index=piece.index,
    )
    if piece.stop_match:
        ended.matched_stop_str = piece.stop_match
    return pb.GenerateResponse(complete=ended)


def aborted_message(index: int) -> Any:
    """Return the message that ends a completion which was aborted."""
    return pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason="abort", index=index))


def _logprobs(logprobs: Sequence[PositionLogprobs]) -> Any:
    if not logprobs:
        return None
    return pb.OutputLogProbs(
        token_logprobs=[one.chosen.logprob for one in logprobs],
        token_ids=[one.chosen.token_id for one in logprobs],
        top_logprobs=[_top(one.top) for one in logprobs if one.top],
    )


def _top(candidates: Sequence[TokenCandidate]) -> Any:
    return pb.TopLogProbs(
        values=[one.logprob for one in candidates], token_ids=[one.token_id for one in candidates]
    )
