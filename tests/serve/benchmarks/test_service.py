"""Benchmarks over gRPC: real calls, the real load generator in its process, a server without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format

from secateur.serve.benchmarks.service import BenchmarkService
from secateur.serve.benchmarks.tables import BenchmarkStore
from secateur.serve.failures import RpcError
from secateur.serve.guard.interceptor import GuardInterceptor
from secateur.serve.state import open_state
from secateur.v1 import benchmarks_pb2 as wire
from secateur.v1 import benchmarks_pb2_grpc
from tests.bench.null_server import Behaviour, add_null_services

CLOSED = wire.ClosedLoad(concurrencies=[2])


@dataclass
class Served:
    name: str
    version: str = "3"


class Pool:
    """Knows two models, as the server's own does."""

    def find(self, name: str, version: str = "") -> Served:
        if name not in ("", "dense", "slim"):
            raise RpcError(grpc.StatusCode.NOT_FOUND.value[0], "MODEL_NOT_FOUND", f"no model {name!r}")
        return Served(name or "dense")


@asynccontextmanager
async def running(folder: Path, **behaviours: Behaviour) -> AsyncIterator[Any]:
    server = grpc.aio.server(interceptors=[GuardInterceptor()])
    known = {"dense": Behaviour(ttft=0.01, itl=0.002), "slim": Behaviour(ttft=0.005, itl=0.002)}
    add_null_services(server, known | behaviours)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    store = BenchmarkStore(open_state(f"sqlite:///{folder}/state.db"))
    service = BenchmarkService(Pool(), store, address, folder / "benchmarks")  # type: ignore[arg-type]
    benchmarks_pb2_grpc.add_BenchmarkServiceServicer_to_server(service, server)
    await service.open()
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield benchmarks_pb2_grpc.BenchmarkServiceStub(channel)
    await service.close()
    await server.stop(grace=0)


async def test_run_watched_kept_and_listed(tmp_path: Path) -> None:
    async with running(tmp_path) as stub:
        request = wire.RunBenchmarkRequest(
            compare=["slim"],
            closed=CLOSED,
            seconds=1.2,
            rounds=3,
            output_tokens=4,
            input_tokens=8,
            slo="ttft=8ms",
        )
        said = [response async for response in stub.RunBenchmark(request, timeout=60)]
        assert {response.name for response in said} == {"benchmarks/1"}
        assert any("slim, round 2 of 3" in response.stage for response in said)
        done = said[-1].benchmark
        assert done.state == wire.BENCHMARK_STATE_SUCCEEDED
        assert [(one.model, one.version) for one in done.models] == [("dense", "3"), ("slim", "3")]
        assert done.end_time.ToSeconds() >= done.create_time.ToSeconds() > 0
        result = json_format.MessageToDict(done.result)
        dense = result["results"][0]
        assert dense["completed"] > 5 and dense["failed"] == 0
        assert dense["median_ttft_ms"] == pytest.approx(10, abs=8)
        assert result["comparison"][0]["ratios"]["median_ttft_ms"]["ratio"] < 1
        assert (await stub.GetBenchmark(wire.GetBenchmarkRequest(name="benchmarks/1"))).benchmark == done
        listed = (await stub.ListBenchmarks(wire.ListBenchmarksRequest(model="slim"))).benchmarks
        assert [one.name for one in listed] == ["benchmarks/1"] and not listed[0].HasField("result")
        assert not (await stub.ListBenchmarks(wire.ListBenchmarksRequest(model="other"))).benchmarks
    assert {file.name for file in (tmp_path / "benchmarks" / "1").iterdir()} >= {
        "records.jsonl",
        "report.json",
        "report.html",
    }


async def test_a_client_that_leaves_ends_it_and_what_it_had_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as stub:
        call = stub.RunBenchmark(wire.RunBenchmarkRequest(closed=CLOSED, seconds=600, output_tokens=2))
        async for response in call:
            if response.fraction > 0:
                break
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # meanwhile no other
            await stub.RunBenchmark(wire.RunBenchmarkRequest(closed=CLOSED)).read()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        call.cancel()
        for _ in range(200):
            found = (await stub.GetBenchmark(wire.GetBenchmarkRequest(name="benchmarks/1"))).benchmark
            if found.state != wire.BENCHMARK_STATE_RUNNING:
                break
            await asyncio.sleep(0.05)
        assert found.state == wire.BENCHMARK_STATE_CANCELLED
        result = json_format.MessageToDict(found.result)
        assert result["benchmark"]["interrupted"] and result["results"][0]["completed"] > 0


async def test_a_model_that_does_not_answer_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    refusing = Behaviour(refuse=grpc.StatusCode.UNAVAILABLE)
    async with running(tmp_path, dense=refusing) as stub:
        said = [r async for r in stub.RunBenchmark(wire.RunBenchmarkRequest(closed=CLOSED, seconds=1))]
        done = said[-1].benchmark
        assert done.state == wire.BENCHMARK_STATE_FAILED and "UNAVAILABLE: refused on purpose" in done.error


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"closed": None}, "INVALID_ARGUMENT", "load: give one of closed, open"),
        ({"closed": wire.ClosedLoad()}, "INVALID_ARGUMENT", "closed: got no load"),
        ({"closed": wire.ClosedLoad(concurrencies=[0])}, "INVALID_ARGUMENT", "closed.concurrencies: got 0"),
        ({"open": wire.OpenLoad(rates=[-1])}, "INVALID_ARGUMENT", "open.rates: got -1"),
        ({"open": wire.OpenLoad(rates=[float("nan")])}, "INVALID_ARGUMENT", "open.rates: got nan"),
        ({"seconds": 0}, "INVALID_ARGUMENT", "seconds: got 0"),
        ({"seconds": 1e9}, "INVALID_ARGUMENT", "seconds: got 1e+09"),
        ({"rounds": 0}, "INVALID_ARGUMENT", "rounds: got 0"),
        ({"input_tokens": 0}, "INVALID_ARGUMENT", "input_tokens: got 0"),
        ({"compare": ["dense"]}, "INVALID_ARGUMENT", "compared with itself"),
        ({"slo": "fast"}, "INVALID_ARGUMENT", "slo: "),
        ({"model": "nope"}, "NOT_FOUND", "no model 'nope'"),
    ],
)
async def test_what_cannot_be_run(tmp_path: Path, changes: dict[str, Any], code: str, said: str) -> None:
    fields = {"model": "dense", "closed": CLOSED} | changes
    async with running(tmp_path) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunBenchmark(wire.RunBenchmarkRequest(**fields)).read()
        assert caught.value.code().name == code and said in (caught.value.details() or "")
        assert not (await stub.ListBenchmarks(wire.ListBenchmarksRequest())).benchmarks


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetBenchmark", wire.GetBenchmarkRequest(name="benchmarks/7"), "NOT_FOUND"),
        ("GetBenchmark", wire.GetBenchmarkRequest(name="7"), "INVALID_ARGUMENT"),
        ("GetBenchmark", wire.GetBenchmarkRequest(name="benchmarks/../1"), "INVALID_ARGUMENT"),
        ("ListBenchmarks", wire.ListBenchmarksRequest(page_size=-1), "INVALID_ARGUMENT"),
        ("ListBenchmarks", wire.ListBenchmarksRequest(page_token="x"), "INVALID_ARGUMENT"),
    ],
)
async def test_what_cannot_be_found(tmp_path: Path, method: str, request_: Any, code: str) -> None:
    async with running(tmp_path) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request_)
        assert caught.value.code().name == code


def test_pages_and_orphans(tmp_path: Path) -> None:
    store = BenchmarkStore(open_state(f"sqlite:///{tmp_path}/state.db"))
    for number in range(5):
        store.create([("dense", "1"), ("slim", str(number))])
    store.finish(2, "SUCCEEDED", {"benchmark": {}})
    assert [row.number for row in store.page(2, None, "")] == [5, 4]
    assert [row.number for row in store.page(9, 4, "slim")] == [3, 2, 1]
    store.end_orphans()  # a server that starts has none running
    states = {row.number: row.state for row in store.page(9, None, "")}
    assert states == {1: "FAILED", 2: "SUCCEEDED", 3: "FAILED", 4: "FAILED", 5: "FAILED"}
