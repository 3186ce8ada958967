"""Real servers over sockets whose services do what a test wrote down: fail so often, then answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import code_pb2
from grpc_status import rpc_status

from secateur.serve.failures import RpcError
from secateur.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

WORDS = ("Once ", "upon ", "a time")
FULL = RpcError(code_pb2.RESOURCE_EXHAUSTED, "QUEUE_FULL", "too many", retry_seconds=0.05)
AWAY = RpcError(code_pb2.UNAVAILABLE, "SHUTTING_DOWN", "going")


@dataclass
class Script(inference_pb2_grpc.InferenceServiceServicer, models_pb2_grpc.ModelServiceServicer):
    """Answers "Once upon a time".

    Attributes:
        failures: what the next calls end with, one each.
        after: fail only after so many messages of a stream.
        calls: metadata, time and remaining seconds of every call received.
        ended: streams that ended, whoever ended them.
        endless: streams go on without a word until the client leaves.
    """

    failures: list[RpcError] = field(default_factory=list)
    after: int = 0
    calls: list[tuple[dict[str, str], float, float]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    ended: int = 0
    endless: bool = False

    def Generate(self, request: Any, context: grpc.ServicerContext) -> inference_pb2.GenerateResponse:
        self._received(request, context)
        self._fail(context)
        completion = inference_pb2.Completion(text="".join(WORDS), token_ids=[1, 2, 3], finish_reason=2)
        return inference_pb2.GenerateResponse(completions=[completion], model="m", model_version="3")

    def StreamGenerate(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._received(request, context)
        context.add_callback(self._ended)
        if not self.after:
            self._fail(context)
        for at, word in enumerate(WORDS):
            yield inference_pb2.StreamGenerateResponse(
                text_delta=word, token_ids=[at], model="m", model_version="3", finish_reason=2 * (at == 2)
            )
            if at + 1 == self.after:
                self._fail(context)
        while self.endless and context.is_active():
            time.sleep(0.01)

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> models_pb2.ListModelsResponse:
        self._received(request, context)
        names, at = ["a", "b", "c"], int(request.page_token or 0)
        token = str(at + 1) if at < 2 else ""
        return models_pb2.ListModelsResponse(models=[models_pb2.Model(name=names[at])], next_page_token=token)

    def _received(self, request: Any, context: grpc.ServicerContext) -> None:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        self.calls.append((metadata, time.monotonic(), context.time_remaining()))
        self.requests.append(request)

    def _fail(self, context: grpc.ServicerContext) -> None:
        if self.failures:
            context.abort_with_status(rpc_status.to_status(self.failures.pop(0).to_status()))

    def _ended(self) -> None:
        self.ended += 1


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Script, str]]]:
    """Start a server; returns what it does and its address."""
    servers: list[grpc.Server] = []

    def started(credentials: grpc.ServerCredentials | None = None, port: int = 0) -> tuple[Script, str]:
        server = grpc.server(ThreadPoolExecutor(4))
        script = Script()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(script, server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(script, server)
        address = f"localhost:{port}"
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
        server.start()
        servers.append(server)
        return script, f"localhost:{bound}"

    yield started
    for server in servers:
        server.stop(0).wait()


@dataclass(frozen=True)
class Certificate:
    """PEM files of a certificate and its key, and what is in them."""

    cert: Path
    key: Path

    @property
    def pair(self) -> tuple[bytes, bytes]:
        return self.key.read_bytes(), self.cert.read_bytes()


@pytest.fixture(scope="session")
def certify(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Certificate]:
    """Make a self-signed certificate for localhost, which is its own authority."""

    def make(name: str) -> Certificate:
        folder = tmp_path_factory.mktemp("tls")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        made = Certificate(folder / "cert.pem", folder / "key.pem")
        made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    return make
