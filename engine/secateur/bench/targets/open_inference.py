"""An Open Inference Protocol server: ``ModelStreamInfer`` with the tensor names of Triton's vLLM backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from secateur.bench.load.prompt import BenchmarkRequest
from secateur.bench.load.record import StreamedResponse
from secateur.bench.load.target import RequestFailed
from secateur.bench.models import ModelInfo
from secateur.bench.targets.channels import open_channel, translate_errors
from secateur.client.endpoint import Endpoint
from secateur.serve.protocols.open_inference.wire import SERVICE, ModelInferRequest, message


class OpenInferenceTarget:
    """Streams text; see `Target`. Prompts are text: the protocol's LLM servers take no tokens.

    Args:
        endpoint: where it is and how to call it, without retries.
    """

    kind = "Open Inference Protocol gRPC"
    takes_tokens = False

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = f"oip://{endpoint.target}"
        self._call = {"timeout": endpoint.timeout, "metadata": endpoint.metadata}
        self._channel = open_channel(endpoint)
        self._stream = self._channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=message("ModelStreamInferResponse").FromString,
        )
        self._ready = self._channel.unary_unary(
            f"/{SERVICE}/ModelReady",
            request_serializer=message("ModelReadyRequest").SerializeToString,
            response_deserializer=message("ModelReadyResponse").FromString,
        )

    async def stream(self, model: str, request: BenchmarkRequest, answer: StreamedResponse) -> None:
        """Send a request and note when its tokens arrive."""
        finished = asyncio.Event()

        async def sent() -> AsyncIterator[Any]:
            yield _request(model, request)
            await finished.wait()  # a client that hangs up early may be taken to have given up

        last: dict[str, Any] = {}
        try:
            async with translate_errors(self._channel):
                async for response in self._stream(sent(), **self._call):
                    if response.error_message:
                        raise RequestFailed("SERVER_ERROR", response.error_message)
                    reply = response.infer_response
                    final = reply.parameters["triton_final_response"].bool_param
                    outputs = _outputs(reply)
                    if tokens := _tokens(outputs, answer):
                        answer.received(tokens)
                    last |= outputs
                    if final or outputs.get("finish_reason") not in (None, "", "None"):
                        break
        finally:
            finished.set()
        if not answer.times:
            raise RequestFailed("CUT_OFF", "the stream ended without a token")
        answer.prompt_tokens = last.get("num_input_tokens")
        answer.output_tokens = sum(answer.tokens)

    async def tokenize(self, model: str, text: str) -> list[int] | None:
        """The protocol has no such call."""
        return None

    async def describe(self, model: str) -> ModelInfo:
        """Only whether the model is ready: the protocol says no more."""
        if not model:
            raise RequestFailed("INVALID_ARGUMENT", "the protocol has no default model: name one")
        request = message("ModelReadyRequest")(name=model)
        async with translate_errors(self._channel):
            reply = await self._ready(request, **self._call)
        if not reply.ready:
            raise RequestFailed("NOT_FOUND", f"no model {model!r} is ready")
        return ModelInfo(model)

    async def close(self) -> None:
        await self._channel.close()


def _request(model: str, request: BenchmarkRequest) -> Any:
    sampling = {
        "temperature": 0,
        "max_tokens": request.output_tokens,
        "ignore_eos": request.ignore_eos,
    }
    built = ModelInferRequest(model_name=model)
    _text(built, "text_input", request.prompt.text or "")
    _text(built, "sampling_parameters", json.dumps(sampling))
    for name in (
        "stream",
        "exclude_input_in_output",
        "return_finish_reason",
        "return_num_input_tokens",
        "return_num_output_tokens",
    ):
        tensor = built.inputs.add(name=name, datatype="BOOL", shape=[1])
        tensor.contents.bool_contents.append(True)
    for name in ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens"):
        built.outputs.add(name=name)
    return built


def _text(built: Any, name: str, text: str) -> None:
    tensor = built.inputs.add(name=name, datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())


def _outputs(reply: Any) -> dict[str, Any]:
    """First elements of the output tensors, by name."""
    outputs: dict[str, Any] = {}
    raw = reply.raw_output_contents
    for index, tensor in enumerate(reply.outputs):
        if tensor.datatype == "BYTES":
            data = raw[index][4:] if raw else (tensor.contents.bytes_contents or [b""])[0]
            outputs[tensor.name] = bytes(data).decode(errors="replace")
        elif tensor.datatype == "UINT32":
            held = tensor.contents.uint_contents
            outputs[tensor.name] = int.from_bytes(raw[index][:4], "little") if raw else held[0]
    return outputs


def _tokens(outputs: Mapping[str, Any], answer: StreamedResponse) -> int:
    """Tokens that a message brought: as it says, or one if it has text."""
    num_tokens = outputs.get("num_output_tokens")
    if num_tokens is not None:
        return int(num_tokens)
    return 1 if outputs.get("text_output") else 0
