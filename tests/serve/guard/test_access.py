"""Bearer tokens, scopes, what is open to all, and the file of callers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secateur.errors import BadInput
from secateur.serve.guard.access import AccessControl, scope_of
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token, read_callers
from tests.serve.guard.conftest import ADMIN_SERVICE, Running, failure

INFER, ADMIN, OLD = generate_token(), generate_token(), generate_token()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "callers.toml"
    yesterday = datetime.now(UTC) - timedelta(days=1)
    path.write_text(
        format_caller_entry("dashboard", [Scope.INFER], INFER)
        + format_caller_entry("operator", [Scope.ADMIN], ADMIN, datetime.now(UTC) + timedelta(days=1))
        + format_caller_entry("intern", [Scope.INFER], OLD, yesterday)
    )
    return path


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        (bearer("guess"), "TOKEN_UNKNOWN"),
        (bearer(""), "TOKEN_UNKNOWN"),
        (bearer(INFER[:-1]), "TOKEN_UNKNOWN"),
        ((("authorization", f"Basic {INFER}"),), "TOKEN_MALFORMED"),
        (bearer(OLD), "TOKEN_EXPIRED"),
    ],
)
async def test_who_has_no_token_is_refused(
    running: Running, file: Path, metadata: tuple, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(checks=[AccessControl(file)]) as calls:
        refused = await failure(calls.say(metadata=metadata))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert calls.handlers.seen == []
    assert not caplog.records


async def test_scopes(running: Running, file: Path) -> None:
    async with running(checks=[AccessControl(file)]) as calls:
        assert (await calls.say(metadata=bearer(INFER))).value == "hello"
        assert calls.handlers.seen[-1].caller.name == "dashboard"
        refused = await failure(calls.say(service=ADMIN_SERVICE, metadata=bearer(INFER)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
        assert dict(refused.details["ErrorInfo"].metadata) == {
            "scope": "admin",
            "caller": "dashboard",
            "method": f"/{ADMIN_SERVICE}/Say",
        }
        assert (await calls.say(service=ADMIN_SERVICE, metadata=bearer(ADMIN))).value == "hello"
        assert (await calls.say(metadata=bearer(ADMIN))).value == "hello"
        # Whoever is refused does not learn which methods there are.
        refused = await failure(calls.say(service="no.such.Service"))
        assert refused.reason == "TOKEN_MISSING"


async def test_a_message_is_not_read_before_its_sender_is_known(running: Running, file: Path) -> None:
    async with running(checks=[AccessControl(file)]) as calls:
        refused = await failure(calls.raw(b"\x0a\xc8\x01"))
        assert refused.reason == "TOKEN_MISSING"


@pytest.mark.parametrize("opened", [True, False])
async def test_health_is_open_unless_closed(running: Running, file: Path, opened: bool) -> None:
    async with running(checks=[AccessControl(file, ("health",) if opened else ())]) as calls:
        stub = health_pb2_grpc.HealthStub(calls.channel)
        call = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        if opened:
            assert (await call).status == health_pb2.HealthCheckResponse.SERVING
        else:
            assert (await failure(call)).reason == "TOKEN_MISSING"
        token = {"metadata": bearer(INFER), "timeout": 10}
        assert (await stub.Check(health_pb2.HealthCheckRequest(), **token)).status == 1
        unknown = await failure(stub.Check(health_pb2.HealthCheckRequest(service="x"), **token))
        assert unknown.code is grpc.StatusCode.NOT_FOUND


async def test_reload(running: Running, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    access, token = AccessControl(file), generate_token()
    async with running(checks=[access]) as calls:
        assert (await failure(calls.say(metadata=bearer(token)))).reason == "TOKEN_UNKNOWN"
        file.write_text(format_caller_entry("new", [Scope.INFER], token))
        access.reload()
        assert (await calls.say(metadata=bearer(token))).value == "hello"
        assert (await failure(calls.say(metadata=bearer(INFER)))).reason == "TOKEN_UNKNOWN"
        file.write_text("[[caller]]\nname = 3")
        access.reload()
        assert (await calls.say(metadata=bearer(token))).value == "hello"
        file.unlink()
        access.reload()
        assert (await calls.say(metadata=bearer(token))).value == "hello"
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "ERROR"]
    assert not any(record.exc_info for record in caplog.records)


async def test_without_a_file_everyone_may(running: Running) -> None:
    async with running(checks=[AccessControl()]) as calls:
        assert (await calls.say(service=ADMIN_SERVICE)).value == "hello"
        assert calls.handlers.seen[-1].caller.name == "anyone"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[caller]", "Expected ']]'"),
        ("tokens = 1", "tokens: no such key"),
        ('[[caller]]\nscopes = ["infer"]', "caller[0].name: is needed"),
        ('[[caller]]\nname = "a b"\nscopes = ["infer"]', "caller[0].name: got a b: String should match"),
        (
            '[[caller]]\nname = "a"\nscopes = ["root"]\ncertificate = "a"',
            "caller[0].scopes[0]: got root: Input should be 'infer' or 'admin'",
        ),
        ('[[caller]]\nname = "a"\nscopes = []\ncertificate = "a"', "caller[0].scopes: "),
        ('[[caller]]\nname = "a"\nscopes = ["infer"]', "caller[0]: give either sha256 or certificate"),
        (
            '[[caller]]\nname = "a"\nscopes = ["infer"]\nsha256 = "12"',
            "caller[0].sha256: got 12: String should match",
        ),
        (
            '[[caller]]\nname = "a"\nscopes = ["infer"]\ncertificate = "a"\nexpires = 2027-01-01T00:00:00',
            "caller[0].expires: got 2027-01-01 00:00:00: Input should have timezone info",
        ),
    ],
)
def test_a_bad_file_is_explained_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "callers.toml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_callers(file)
    message = str(caught.value)
    assert message.startswith(f"tokens: got {file}: ") and "\n" not in message
    assert complaint in message


def test_no_token_is_stored(file: Path) -> None:
    assert not any(token in file.read_text() for token in (INFER, ADMIN, OLD))


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("/secateur.v1.InferenceService/StreamGenerate", Scope.INFER),
        ("/secateur.v1.ModelService/ListModels", Scope.INFER),
        ("/secateur.v1.ModelService/GetModel", Scope.INFER),
        ("/secateur.v1.ModelService/ActivateModel", Scope.ADMIN),
        ("/secateur.v1.PruneService/GetPruneJob", Scope.ADMIN),
        ("/google.longrunning.Operations/GetOperation", Scope.ADMIN),
        ("/inference.GRPCInferenceService/ModelStreamInfer", Scope.INFER),
        ("/inference.GRPCInferenceService/ServerLive", Scope.INFER),
        ("/inference.GRPCInferenceService/RepositoryIndex", Scope.INFER),
        ("/inference.GRPCInferenceService/RepositoryModelLoad", Scope.ADMIN),
        ("/inference.GRPCInferenceService/RepositoryModelUnload", Scope.ADMIN),
        ("/inference.GRPCInferenceService/LogSettings", Scope.ADMIN),
        ("/grpc.health.v1.Health/Watch", Scope.INFER),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Scope.INFER),
        ("/no.such.Service/Anything", Scope.ADMIN),
    ],
)
def test_which_scope_a_method_needs(method: str, scope: Scope) -> None:
    assert scope_of(method) is scope


def test_what_infer_opens_is_decided_by_name() -> None:
    """A method that a service gains under an open beginning has to be looked at, and added here."""
    from secateur.serve.server import SERVICES
    from tests.serve import hostile

    opened: dict[str, set[str]] = {}
    for method in hostile.methods(SERVICES):
        service = method.containing_service.full_name
        if scope_of(f"/{service}/{method.name}") is Scope.INFER:
            opened.setdefault(service, set()).add(method.name)
    server = {"ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"}
    model = {
        "ModelReady",
        "ModelMetadata",
        "ModelInfer",
        "ModelStreamInfer",
        "ModelConfig",
        "ModelStatistics",
    }
    info = {"HealthCheck", "GetModelInfo", "GetServerInfo", "GetLoads", "GetTokenizer"}
    assert opened == {
        "secateur.v1.InferenceService": {"Generate", "StreamGenerate", "Score", "Tokenize", "Detokenize"},
        "secateur.v1.ModelService": {"ListModels", "GetModel", "GetModelVersion"},
        "inference.GRPCInferenceService": server | model,
        "vllm.grpc.engine.VllmEngine": {"Generate", "Abort"} | info,
    }
