"""Models and health of a running server."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secateur.client import CallFailed, Client
from secateur.serve.process import ServerProcess
from secateur.v1 import models_pb2, models_pb2_grpc


def test_models_are_described(client: Client) -> None:
    models = client.models.list()
    assert [model.name for model in models] == ["llama", "mistral", "qwen2", "qwen3", "stock"]
    assert {model.state for model in models} == {models_pb2.MODEL_STATE_SERVING}
    assert {model.dtype for model in models} == {"float32"}
    assert models[0].architecture == "SecateurForCausalLM"
    assert models[4].architecture == "LlamaForCausalLM"
    assert all(model.max_model_len == 512 < model.kv_cache_tokens for model in models)


def test_models_come_in_pages(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        first = stub.ListModels(models_pb2.ListModelsRequest(page_size=3))
        token = first.next_page_token
        second = stub.ListModels(models_pb2.ListModelsRequest(page_size=3, page_token=token))
        assert [model.name for model in first.models] == ["llama", "mistral", "qwen2"]
        assert [model.name for model in second.models] == ["qwen3", "stock"]
        assert not second.next_page_token
        with pytest.raises(grpc.RpcError, match="page_size"):
            stub.ListModels(models_pb2.ListModelsRequest(page_size=-1))


def test_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(CallFailed, match="NOT_FOUND"):
        client.models.get("nobody")


def test_counters_add_up(client: Client) -> None:
    before = client.models.get("qwen2").counters
    answer = client.complete("qwen2", "one two", max_tokens=6, ignore_eos=True)
    after = client.models.get("qwen2").counters
    assert after.prompt_tokens - before.prompt_tokens == answer.usage.prompt_tokens
    assert after.generated_tokens - before.generated_tokens == 6
    assert after.finished_requests - before.finished_requests == 1
    assert after.aborted_requests == before.aborted_requests


@pytest.mark.parametrize(
    "service", ["", "secateur.v1.InferenceService", "secateur.v1.ModelService", "model/llama", "model/stock"]
)
def test_health(server: ServerProcess, service: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_ready_document_describes_the_models(server: ServerProcess, folders: dict[str, Path]) -> None:
    assert [model["name"] for model in server.document["models"]] == list(folders)
    assert server.document["seconds"]["start"] > 0
