"""The pieces of a generation as ModelInferResponse messages."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from google.rpc import code_pb2

from secateur.serve.failures import RpcError
from secateur.serve.inference.generation import CompletionChunk, PositionLogprobs, TokenCandidate
from secateur.serve.models.pool import ModelVersion
from secateur.serve.protocols.open_inference import wire
from secateur.serve.protocols.open_inference.infer_request import InferRequest
from secateur.serve.protocols.open_inference.tensors import write_outputs

FINAL = "triton_final_response"
UNFINISHED = "None"
"""What Triton's backend says for the finish reason of a completion that goes on."""


class ResponseBuilder:
    """Makes the responses to one question; it remembers what adds up over them."""

    def __init__(self, request_id: str, infer_request: InferRequest, model: ModelVersion) -> None:
        self._id = request_id
        self._request = infer_request
        self._model = model
        self._logprobs: defaultdict[int, float] = defaultdict(float)
        self._prompt = infer_request.text if infer_request.echo_prompt else ""

    def whole(self, pieces: Sequence[CompletionChunk]) -> Any:
        """Return the only response, from one piece per completion."""
        return self._response(pieces)

    def part(self, piece: CompletionChunk) -> Any:
        """Return the response for one more piece; completions that it is not of have an empty text."""
        nothing = [CompletionChunk(index, "", ()) for index in range(self._request.sampling.n)]
        nothing[piece.index] = piece
        return self._response([one._replace(prompt_tokens=piece.prompt_tokens) for one in nothing])

    def _response(self, pieces: Sequence[CompletionChunk]) -> Any:
        response = wire.ModelInferResponse(
            id=self._id, model_name=self._model.name, model_version=self._model.version
        )
        response.parameters[FINAL].bool_param = any(piece.summary is not None for piece in pieces)
        for piece in pieces:
            self._logprobs[piece.index] += sum(one.chosen.logprob for one in piece.logprobs)
        values = {name: self._values(name, pieces) for name in self._request.requested_outputs}
        write_outputs(response, values, self._request.raw)
        return response

    def _values(self, name: str, pieces: Sequence[CompletionChunk]) -> list[Any]:
        match name:
            case "text_output":
                return [(self._prompt + piece.text).encode() for piece in pieces]
            case "finish_reason":
                return [(piece.finish_reason or UNFINISHED).encode() for piece in pieces]
            case "cumulative_logprob":
                return [self._logprobs[piece.index] for piece in pieces]
            case "logprobs":
                return [json.dumps([_by_token(one) for one in piece.logprobs]).encode() for piece in pieces]
            case "num_input_tokens":
                return [pieces[0].prompt_tokens]
            case _:
                return [len(piece.token_ids) for piece in pieces]


def error_response(request: Any, refusal: RpcError) -> Any:
    """Return the message that tells, within a stream, that a request failed."""
    response = wire.ModelStreamInferResponse(error_message=refusal.message)
    response.infer_response.id = request.id
    response.infer_response.model_name = request.model_name
    parameters = response.infer_response.parameters
    parameters[FINAL].bool_param = True
    parameters["error_code"].string_param = code_pb2.Code.Name(refusal.code)
    parameters["error_reason"].string_param = refusal.reason
    return response


def _by_token(logprobs: PositionLogprobs) -> dict[str, Any]:
    """Return the chosen token and the likeliest ones, by id."""
    return {str(one.token_id): _described(one) for one in (logprobs.chosen, *logprobs.top)}


def _described(candidate: TokenCandidate) -> dict[str, Any]:
    return {"logprob": candidate.logprob, "rank": candidate.rank, "decoded_token": candidate.text}
