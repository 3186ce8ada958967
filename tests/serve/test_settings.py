"""What the server decides before any engine runs: sizes, addresses, memory, environment."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from secateur.config.address import check_address
from secateur.config.serve import EngineOptions
from secateur.config.sizes import parse_bytes
from secateur.errors import BackendUnavailable, BadInput
from secateur.serve.engine import environment, memory
from secateur.serve.failures import RpcError
from secateur.serve.models.pool import ModelPool, VersionState
from secateur.v1 import models_pb2


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("512MiB", 2**29), ("2GiB", 2**31), ("1.5 gib", 3 * 2**29), ("1000", 1000), (1000, 1000)],
)
def test_sizes(text: str | int, bytes_: int) -> None:
    assert parse_bytes("kv_cache_memory", text) == bytes_


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:50051", "[::1]:1", "unix:/run/s.sock"])
def test_addresses_of_this_machine(listen: str) -> None:
    check_address("listen", listen, consent=False)


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "example.org:1", "10.0.0.1:1"])
def test_addresses_others_can_reach_need_consent(listen: str) -> None:
    check_address("listen", listen, consent=True)
    with pytest.raises(BadInput, match="insecure"):
        check_address("listen", listen, consent=False)


def test_memory_is_shared_between_engines_within_limits() -> None:
    gib = 2**30
    assert memory.kv_cache_share(2 * gib, 1) == pytest.approx(0.8 * gib, rel=1e-6)
    assert memory.kv_cache_share(2 * gib, 2) == pytest.approx(0.4 * gib, rel=1e-6)
    assert memory.kv_cache_share(100 * gib, 1) == memory.MAX_KV_CACHE_BYTES
    assert memory.kv_cache_share(0, 3) == memory.MIN_KV_CACHE_BYTES
    assert 0 < memory.available_bytes() < 2**50


@pytest.mark.parametrize(
    ("cores", "engines", "threads"), [(1, 1, 1), (2, 1, 1), (16, 1, 15), (16, 2, 7), (4, 9, 1)]
)
def test_cores_are_shared_between_engines(cores: int, engines: int, threads: int) -> None:
    assert environment.threads_per_engine(cores, engines) == threads


def test_environment_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "on_cpu", lambda: True)
    environ = {"VLLM_LOGGING_LEVEL": "DEBUG"}
    environment.set_engine_environment(EngineOptions(threads=3), 1, environ)
    assert environ["VLLM_LOGGING_LEVEL"] == "DEBUG"  # the user's stays
    assert environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert environ["OMP_NUM_THREADS"] == "3"
    assert environ["TORCHDYNAMO_DISABLE"] == "1"


def test_environment_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "on_cpu", lambda: False)
    environ: dict[str, str] = {}
    environment.set_engine_environment(EngineOptions(), 1, environ)
    assert environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert not {"OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "VLLM_ENABLE_V1_MULTIPROCESSING"} & set(environ)


def test_an_allow_list_without_our_plugin_is_explained() -> None:
    with pytest.raises(BackendUnavailable, match="set VLLM_PLUGINS=other,secateur"):
        environment.set_engine_environment(EngineOptions(), 1, {"VLLM_PLUGINS": "other"})


def test_missing_vllm_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "version", missing)
    with pytest.raises(BackendUnavailable, match=r"pip install '\.\[cpu\]'"):
        environment.on_cpu()


def test_states_are_those_of_the_proto() -> None:
    for state in VersionState:
        assert models_pb2.ModelState.Name(state.value) == f"MODEL_STATE_{state.name}"


def test_pool_finds_the_only_model_without_a_name() -> None:
    assert ModelPool(("a",)).find("").name == "a"
    with pytest.raises(RpcError, match="there are: a, b"):
        ModelPool(("a", "b")).find("")


def test_loading_models_say_when_to_come_back() -> None:
    with pytest.raises(RpcError, match="a is still loading") as refusal:
        ModelPool(("a",)).find("a").ready_engine()
    assert [detail.TypeName() for detail in refusal.value.to_status().details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
    ]


def test_requests_are_counted_however_they_end() -> None:
    model = ModelPool(("a",)).find("a")
    with model.request() as request:
        request.submit([[1, 2], [3, 4, 5]], {})
        request.generated(2)
        assert model.in_flight == 1
        request.complete()
    with pytest.raises(KeyError), model.request() as request:
        request.submit([[1, 2, 3]], {})
        raise KeyError
    with pytest.raises(KeyError), model.request():
        raise KeyError  # before the engine was given anything: neither finished nor aborted
    totals = model.totals
    assert model.in_flight == 0
    assert (totals.prompt_tokens, totals.generated_tokens) == (8, 2)
    assert (totals.finished, totals.aborted) == (1, 1)


def test_the_folder_of_sockets_is_forgotten() -> None:
    """Or a process that serves twice, or starts something else later, looks for a folder that is gone."""
    environ: dict[str, str] = {}
    with environment.sockets_in(Path("/run/a"), environ):
        assert environ == {"VLLM_RPC_BASE_PATH": "/run/a"}
    assert not environ
    environ["VLLM_RPC_BASE_PATH"] = "/of/the/user"
    with environment.sockets_in(Path("/run/a"), environ):
        assert environ["VLLM_RPC_BASE_PATH"] == "/of/the/user"
    assert environ["VLLM_RPC_BASE_PATH"] == "/of/the/user"


def test_a_folder_of_sockets_with_too_long_a_name() -> None:
    environ: dict[str, str] = {}
    name = "/" + "d" * (environment.MAX_SOCKET_FOLDER_LENGTH - 3)
    with environment.sockets_in(Path(name) / "s", environ):
        pass
    with (
        pytest.raises(BadInput, match=r"TMPDIR: got /ddd.*: a name of at most 68 bytes"),
        environment.sockets_in(Path(name + "d") / "s", environ),
    ):
        pass
    assert not environ
