"""vllm.grpc.engine.VllmEngine, called with the stubs that its gateways use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from secateur.client import Client
from secateur.serve.process import ServerProcess
from tests.serve.protocols.open_inference.calls import reason_of

TOKENS = (40, 41, 42)


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.VllmEngineStub(channel)


def request(request_id: str = "r", max_tokens: int = 12, stream: bool = True, **sampling: Any) -> Any:
    params = {"temperature": 0.0, "ignore_eos": True, "max_tokens": max_tokens} | sampling
    return pb.GenerateRequest(
        request_id=request_id,
        tokenized=pb.TokenizedInput(input_ids=TOKENS),
        sampling_params=pb.SamplingParams(**params),
        stream=stream,
    )


def test_stream_is_chunks_and_a_completion(stub: Any) -> None:
    *chunks, last = stub.Generate(request(logprobs=2), timeout=60)
    assert all(one.WhichOneof("response") == "chunk" for one in chunks)
    tokens = [token for one in chunks for token in one.chunk.token_ids]
    assert len(tokens) == sum(one.chunk.completion_tokens for one in chunks) == 12
    assert {one.chunk.prompt_tokens for one in chunks} == {len(TOKENS)}
    first = chunks[0].chunk.output_logprobs
    assert list(first.token_ids) == list(chunks[0].chunk.token_ids)
    assert first.top_logprobs[0].token_ids[0] == first.token_ids[0]  # greedy
    assert last.complete.finish_reason == "length"

    (whole,) = stub.Generate(request(stream=False), timeout=60)
    assert list(whole.complete.output_ids) == tokens
    assert (whole.complete.completion_tokens, whole.complete.prompt_tokens) == (12, len(TOKENS))


def test_completions_are_told_apart_by_their_index(stub: Any) -> None:
    sampling = {"n": 2, "temperature": 1.0, "seed": 3}
    whole = {one.complete.index: list(one.complete.output_ids) for one in
             stub.Generate(request(stream=False, **sampling), timeout=60)}  # fmt: skip
    parts: dict[int, list[int]] = {0: [], 1: []}
    for one in stub.Generate(request(**sampling), timeout=60):
        parts[one.chunk.index].extend(one.chunk.token_ids)
    assert parts == whole


def test_zero_means_not_given_and_without_max_tokens_the_context_is_the_limit(stub: Any) -> None:
    made = pb.GenerateRequest(text="Once", sampling_params=pb.SamplingParams(ignore_eos=True))
    (whole,) = stub.Generate(made, timeout=60)
    assert whole.complete.finish_reason == "length"
    assert whole.complete.prompt_tokens + whole.complete.completion_tokens == 512


def test_abort_ends_a_request_and_is_told_to_its_caller(stub: Any, server: ServerProcess) -> None:
    running = stub.Generate(request("long", max_tokens=500), timeout=60)
    other = stub.Generate(request("other", max_tokens=100), timeout=60)
    next(running)
    stub.Abort(pb.AbortRequest(request_ids=["long", "nobody's"]), timeout=60)
    *_, last = running
    assert last.complete.finish_reason == "abort"
    *_, last = other
    assert last.complete.finish_reason == "length"
    with Client(server.address, timeout=60) as client:
        assert client.models.get("slim").counters.running_requests == 0


def test_clients_that_hang_up_leave_nothing_behind(server: ServerProcess, log: Path) -> None:
    for number in range(40):
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            responses = pb_grpc.VllmEngineStub(channel).Generate(request(max_tokens=400), timeout=60)
            for _ in range(number):
                next(responses)
    with Client(server.address, timeout=60) as client:
        deadline = time.monotonic() + 5
        while client.models.get("slim").counters.running_requests and time.monotonic() < deadline:
            time.sleep(0.02)
        assert client.models.get("slim").counters.running_requests == 0
    assert "bug" not in log.read_text()
    assert "never retrieved" not in log.read_text()


def test_model_and_server_say_what_they_are(stub: Any) -> None:
    assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=60).healthy
    model = stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=60)
    assert (model.served_model_name, model.max_context_length, model.vocab_size) == ("slim", 512, 300)
    assert list(model.architectures) == ["SecateurForCausalLM"]
    server = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=60)
    assert (server.model_dtype, server.active_requests) == ("torch.float32", 0)
    assert server.uptime_seconds > 0


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (pb.GenerateRequest(), "input"),
        (pb.GenerateRequest(text=""), "text"),
        (pb.GenerateRequest(tokenized=pb.TokenizedInput()), "tokenized.input_ids"),
        (pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[300])), "tokenized.input_ids"),
        (request(top_p=2.0), "sampling_params.top_p"),
        (request(logprobs=-1), "sampling_params.logprobs"),
        (request(n=1000, temperature=1.0), "sampling_params.n"),
        (request(regex="a*"), "sampling_params.regex"),
        (request(prompt_logprobs=1), "sampling_params.prompt_logprobs"),
        (pb.GenerateRequest(text="a", data_parallel_rank=1), "data_parallel_rank"),
        (pb.GenerateRequest(text="a", kv_transfer_params_json="{}"), "kv_transfer_params_json"),
    ],
)
def test_bad_requests_name_the_field(stub: Any, made: Any, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(made, timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "INVALID_FIELD"
    assert caught.value.details().startswith(f"{field}: ")


def test_calls_there_are_not_are_unknown(stub: Any) -> None:
    for call, made in ((stub.Embed, pb.EmbedRequest()), (stub.GetLoads, pb.GetLoadsRequest())):
        with pytest.raises(grpc.RpcError) as caught:
            call(made, timeout=60)
        assert (caught.value.code().name, reason_of(caught.value)) == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
