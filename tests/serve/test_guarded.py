"""A whole server with everything on: encryption, tokens, limits, metrics, traces, JSON logs."""

from __future__ import annotations

import json
import os
import signal
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from secateur.client import CallFailed, Client
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token
from secateur.serve.process import ServerProcess, served
from tests.serve import hostile
from tests.serve.guard.certificates import install, issue
from tests.waiting import eventually

pytestmark = pytest.mark.slow

SMALL = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8")
INFER, ADMIN = generate_token(), generate_token()
GREEDY: dict[str, Any] = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass(frozen=True)
class Guarded:
    """The server and what is around it."""

    server: ServerProcess
    folder: Path
    checkpoint: Path
    another: Path
    collector: Collector

    def client(self, token: str | None) -> Client:
        return Client(self.server.address, timeout=60, ca=self.folder / "ca.pem", token=token)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Lines of the server; its engines, which are vLLM's, write text."""
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metrics(self) -> dict[str, float]:
        (line,) = (one["message"] for one in self.log if one["message"].startswith("metrics on"))
        trust = ssl.create_default_context(cafile=self.folder / "ca.pem")
        with urllib.request.urlopen(line.split()[-1], context=trust, timeout=5) as answer:
            text = answer.read().decode()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        }


@pytest.fixture(scope="module")
def guarded(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("guarded")
    authority = issue("authority")
    tls = install(issue("localhost", authority), folder)
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    tokens = folder / "tokens.toml"
    tokens.write_text(
        format_caller_entry("reader", [Scope.INFER], INFER)
        + format_caller_entry("operator", [Scope.ADMIN], ADMIN)
    )
    collector, receiver = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    options = folder / "server.yaml"
    options.write_text(
        f"tls-cert: {tls.certificate}\ntls-key: {tls.key}\ntokens: {tokens}\nmetrics: 127.0.0.1:0\n"
        f"traces: http://127.0.0.1:{port}\nlog-json: true\nlog-calls: true\nmax-message: 1MiB\n"
        f"lame-duck-seconds: 2\nroots: [{folders['llama'].parent}]\nstate-dir: {folder / 'state'}\n"
    )
    with (folder / "log").open("w") as stderr:
        more = (*SMALL, "--config", str(options))
        with served({"slim": folders["llama"]}, *more, stderr=stderr) as server:
            yield Guarded(server, folder, folders["llama"], folders["stock"], collector)
    print((folder / "log").read_text())
    receiver.stop(None)


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(CallFailed) as caught:
        call()
    return caught.value.code.name, caught.value.reason


def test_scopes(guarded: Guarded) -> None:
    with guarded.client(None) as anyone, guarded.client(INFER) as reader, guarded.client(ADMIN) as operator:
        assert refused(anyone.models.list) == ("UNAUTHENTICATED", "TOKEN_MISSING")
        assert refused(lambda: anyone.complete("slim", "x")) == ("UNAUTHENTICATED", "TOKEN_MISSING")
        assert reader.complete("slim", "Once upon a time", **GREEDY).usage.completion_tokens == 8
        assert [model.name for model in reader.models.list()] == ["slim"]
        loading = ("PERMISSION_DENIED", "SCOPE_MISSING")
        assert refused(lambda: reader.models.load("slim", str(guarded.checkpoint))) == loading
        assert operator.models.get("slim").name == "slim"


def test_mistakes_leave_no_errors_in_the_log(guarded: Guarded) -> None:
    with guarded.client(ADMIN) as client:
        assert refused(lambda: client.complete("nobody", "x"))[0] == "NOT_FOUND"
        assert refused(lambda: client.complete("slim", ""))[0] == "INVALID_ARGUMENT"
        assert refused(lambda: client.complete("slim", "x", temperature=9.0))[0] == "INVALID_ARGUMENT"
        assert refused(lambda: client.complete("slim", [10**6]))[0] == "INVALID_ARGUMENT"
        assert refused(lambda: client.complete("slim", "x" * 2**21))[0] == "RESOURCE_EXHAUSTED"
        for folder in ("/etc", f"{guarded.checkpoint}/../../../..", "relative"):
            assert refused(lambda: client.models.load("slim", folder))[0] in (  # noqa: B023
                "INVALID_ARGUMENT",
                "PERMISSION_DENIED",
            )
        assert client.complete("slim", "x", **GREEDY).usage.completion_tokens == 8
    lines = guarded.log
    assert not [line for line in lines if line["level"] in ("warning", "error") or "exc_info" in line]
    mine = [line for line in lines if line.get("code") == "NOT_FOUND"]
    assert mine[-1]["caller"] == "operator" and mine[-1]["request_id"] and "nobody" in mine[-1]["message"]


def test_no_request_upsets_the_server(guarded: Guarded) -> None:
    from secateur.serve.server import SERVICES

    trust = grpc.ssl_channel_credentials((guarded.folder / "ca.pem").read_bytes())
    token = (("authorization", f"Bearer {ADMIN}"),)
    seen: dict[str, list[str]] = {}
    with grpc.secure_channel(guarded.server.address, trust) as channel:
        for method in hostile.methods(SERVICES):
            path = f"/{method.containing_service.full_name}/{method.name}"
            for request in hostile.requests(method):
                call = channel.stream_stream(path)(iter([request]), metadata=token, timeout=20)
                with suppress(grpc.RpcError):
                    list(call)
                seen.setdefault(path, []).append(call.code().name)
                details = dict(call.trailing_metadata())
                assert call.code().name == "OK" or "grpc-status-details-bin" in details, path
    assert len(seen) > 30
    print(json.dumps(seen, indent=1))
    fine = {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "UNIMPLEMENTED",
        "FAILED_PRECONDITION",
        "PERMISSION_DENIED",
    }
    assert {path: codes for path, codes in seen.items() if set(codes) - fine} == {}
    with guarded.client(INFER) as client:
        assert client.complete("slim", "x", **GREEDY).usage.completion_tokens == 8
    errors = [line for line in guarded.log if line["level"] in ("warning", "error")]
    assert [(line["message"], line.get("exc_info", "")[-500:]) for line in errors] == []


def test_metrics_survive_a_second_engine(guarded: Guarded) -> None:
    with guarded.client(ADMIN) as client:
        client.complete("slim", "Once upon a time", **GREEDY)
        before = guarded.metrics()
        first = 'model="slim",version="1"'
        tokens = before[f"secateur_generated_tokens_total{{{first}}}"]
        assert tokens >= 8 and before[f"secateur_time_to_first_token_seconds_count{{{first}}}"] >= 1
        client.models.load("dense", str(guarded.another))
        client.complete("dense", "Once upon a time", **GREEDY)
        after = guarded.metrics()
        second = 'model="dense",version="1"'
        assert after[f"secateur_generated_tokens_total{{{first}}}"] >= tokens
        assert after[f"secateur_generated_tokens_total{{{second}}}"] >= 8
        assert after[f"secateur_inter_token_seconds_count{{{second}}}"] >= 7
        assert after['secateur_requests_total{model="dense",reason="length",version="1"}'] >= 1
        for name in ("queue", "request", "time_to_first_token"):
            assert after[f"secateur_{name}_seconds_count{{{second}}}"] >= 1
        assert (
            after["secateur_event_loop_lag_seconds_count"] > before["secateur_event_loop_lag_seconds_count"]
        )
        method = 'method="LoadModelVersion",service="secateur.v1.ModelService"'
        assert after[f'secateur_calls_total{{code="OK",{method}}}'] == 1


def test_traces_reach_the_collector(guarded: Guarded) -> None:
    channel = grpc.secure_channel(
        guarded.server.address, grpc.ssl_channel_credentials((guarded.folder / "ca.pem").read_bytes())
    )
    from secateur.v1 import inference_pb2, inference_pb2_grpc

    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with channel:
        request = inference_pb2.GenerateRequest(model="slim", text="Once")
        request.sampling.max_tokens = 3
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {INFER}"), ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"))
        stub.Generate(request, metadata=metadata, timeout=60)

    def mine() -> dict[str, Any]:
        return {s.name: s for s in guarded.collector.spans if s.trace_id.hex() == trace}

    assert eventually(lambda: len(mine()) == 2)
    call, engine = mine()["secateur.v1.InferenceService/Generate"], mine()["engine.request"]
    assert call.parent_span_id.hex() == "00f067aa0ba902b7"
    assert engine.parent_span_id == call.span_id
    found = {one.key: one.value for one in engine.attributes}
    assert found["gen_ai.usage.output_tokens"].int_value == 3


def test_new_callers_after_a_signal(guarded: Guarded) -> None:
    token, file = generate_token(), guarded.folder / "tokens.toml"
    with guarded.client(token) as client:
        assert refused(client.models.list)[1] == "TOKEN_UNKNOWN"
        file.write_text(file.read_text() + format_caller_entry("late", [Scope.INFER], token))
        os.kill(guarded.server.process.pid, signal.SIGHUP)
        assert eventually(lambda: any("callers reloaded" in line["message"] for line in guarded.log))
        assert client.models.get("slim").name == "slim"


def test_a_lame_duck_still_answers(guarded: Guarded) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    trust = grpc.ssl_channel_credentials((guarded.folder / "ca.pem").read_bytes())
    with guarded.client(INFER) as client, grpc.secure_channel(guarded.server.address, trust) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def serving() -> bool:
            return stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1

        assert serving()
        guarded.server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: not serving(), 1)
        assert client.complete("slim", "x", **GREEDY).usage.completion_tokens == 8
        assert guarded.server.process.wait(30) == 0
    assert not [line["message"] for line in guarded.log if line["level"] == "error"]
