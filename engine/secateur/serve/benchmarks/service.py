"""secateur.v1.BenchmarkService: one benchmark at a time, each in a process of its own, its result kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2
from google.rpc import code_pb2

from secateur.config.values import to_json
from secateur.serve.benchmarks.process import BenchmarkOutcome, RunningBenchmark
from secateur.serve.benchmarks.specification import options_of
from secateur.serve.benchmarks.tables import BenchmarkRow, BenchmarkStore
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument
from secateur.serve.models.pool import ModelPool
from secateur.serve.pages import next_page_token, parse_page
from secateur.v1 import benchmarks_pb2, benchmarks_pb2_grpc

BENCHMARK_NAME = re.compile(r"benchmarks/([1-9][0-9]{0,17})")


class BenchmarkService(benchmarks_pb2_grpc.BenchmarkServiceServicer):
    """Benchmarks of a server.

    Args:
        pool: the models there are.
        store: where benchmarks are kept.
        target: where the load generator reaches this server.
        folder: where it puts the records of every request.
    """

    def __init__(self, pool: ModelPool, store: BenchmarkStore, target: str, folder: Path) -> None:
        self._pool = pool
        self._store = store
        self._target = target
        self._folder = folder
        self._running: RunningBenchmark | None = None
        self._task: asyncio.Task[BenchmarkOutcome] | None = None

    async def open(self) -> None:
        """Mark what an earlier server left running."""
        await asyncio.to_thread(self._store.end_orphans)

    async def close(self) -> None:
        """End the benchmark that runs, and keep what it has."""
        if self._running is not None:
            self._running.cancel()
        if self._task is not None:
            with suppress(Exception):
                await asyncio.shield(self._task)

    async def RunBenchmark(
        self, request: benchmarks_pb2.RunBenchmarkRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[benchmarks_pb2.RunBenchmarkResponse]:
        """Run one and stream what it does; it ends when the client leaves."""
        served = [self._pool.find(name) for name in (request.model, *request.compare)]
        options = options_of(request, [model.name for model in served], self._target)
        if self._running is not None:
            message = "another benchmark is running: two at a time would measure each other"
            raise RpcError(code_pb2.FAILED_PRECONDITION, "BENCHMARK_RUNNING", message)
        self._running = running = RunningBenchmark()
        try:
            row = await asyncio.to_thread(
                self._store.create, [(model.name, model.version) for model in served]
            )
        except BaseException:
            self._running = None
            raise
        name = f"benchmarks/{row.number}"
        job = {
            "options": to_json(options),
            "token": _token(context),
            "folder": str(self._folder / str(row.number)),
        }
        # A task of its own: it keeps the result also when this call is cancelled.
        self._task = task = asyncio.create_task(self._whole(running, row, job))
        try:
            while not task.done():
                yield benchmarks_pb2.RunBenchmarkResponse(
                    name=name, stage=running.progress.stage, fraction=running.progress.fraction
                )
                running.changed.clear()
                change_task = asyncio.create_task(running.changed.wait())
                await asyncio.wait({change_task, task}, return_when=asyncio.FIRST_COMPLETED)
                change_task.cancel()
            task.result()
        finally:
            if not task.done():
                running.cancel()
        yield benchmarks_pb2.RunBenchmarkResponse(
            name=name, stage="done", fraction=1.0, benchmark=await self._described(row.number)
        )

    async def GetBenchmark(
        self, request: benchmarks_pb2.GetBenchmarkRequest, context: grpc.aio.ServicerContext
    ) -> benchmarks_pb2.GetBenchmarkResponse:
        """Return one, with its result."""
        match = BENCHMARK_NAME.fullmatch(request.name)
        if match is None:
            raise invalid_argument(
                FieldViolation("name", f"got {request.name[:100]!r}, give benchmarks/NUMBER")
            )
        return benchmarks_pb2.GetBenchmarkResponse(benchmark=await self._described(int(match[1])))

    async def ListBenchmarks(
        self, request: benchmarks_pb2.ListBenchmarksRequest, context: grpc.aio.ServicerContext
    ) -> benchmarks_pb2.ListBenchmarksResponse:
        """Return a page; the page token is the number of the last one of the page before."""
        size, before = parse_page(request.page_size, request.page_token)
        rows = await asyncio.to_thread(self._store.page, size + 1, before, request.model)
        return benchmarks_pb2.ListBenchmarksResponse(
            benchmarks=[describe(row) for row in rows[:size]],
            next_page_token=next_page_token(rows, size, lambda row: row.number),
        )

    async def _whole(
        self, running: RunningBenchmark, row: BenchmarkRow, job: dict[str, Any]
    ) -> BenchmarkOutcome:
        """Run the process and keep what came of it."""
        try:
            outcome = await running.run(job)
            await asyncio.to_thread(
                self._store.finish, row.number, outcome.state, outcome.result, outcome.error
            )
            return outcome
        finally:
            self._running = None

    async def _described(self, number: int) -> benchmarks_pb2.Benchmark:
        row, result = await asyncio.to_thread(self._store.find, number)
        return describe(row, result)


def describe(row: BenchmarkRow, result: dict[str, Any] | None = None) -> benchmarks_pb2.Benchmark:
    """Return the wire form of a benchmark."""
    described = benchmarks_pb2.Benchmark(
        name=f"benchmarks/{row.number}",
        state=benchmarks_pb2.BenchmarkState.Value(f"BENCHMARK_STATE_{row.state}"),
        models=[benchmarks_pb2.BenchmarkedModel(model=one.model, version=one.version) for one in row.models],
        error=row.error,
    )
    described.create_time.FromNanoseconds(int(row.created_at * 1e9))
    if row.ended_at is not None:
        described.end_time.FromNanoseconds(int(row.ended_at * 1e9))
    if result is not None:
        described.result.CopyFrom(json_format.ParseDict(result, struct_pb2.Struct()))
    return described


def _token(context: grpc.aio.ServicerContext) -> str:
    """The caller's own bearer token: the load generator may do what whoever started it may."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            return value.partition(" ")[2].strip()
    return ""
