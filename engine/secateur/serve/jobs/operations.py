"""google.longrunning.Operations: the runs of prune jobs."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.jobs.store import JobStore
from secateur.serve.jobs.supervisor import Supervisor
from secateur.serve.jobs.wire import OPERATIONS, operation_message, parse_operation
from secateur.serve.pages import next_page_token, parse_page

MAX_WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.25


class OperationsService(operations_pb2_grpc.OperationsServicer):
    """Operations that RunPruneJob returned."""

    def __init__(self, store: JobStore, supervisor: Supervisor) -> None:
        self._store = store
        self._supervisor = supervisor
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all waits: they answer what there is."""
        self._closing.set()

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.ListOperationsResponse:
        """Return a page of operations, the newest first."""
        if request.name not in ("", OPERATIONS):
            raise invalid_argument(FieldViolation("name", f"got {request.name[:100]!r}, give {OPERATIONS}"))
        if request.filter:
            raise invalid_argument(
                FieldViolation("filter", f"got {request.filter[:100]!r}, filters are not supported")
            )
        size, before = parse_page(request.page_size, request.page_token)
        rows = await asyncio.to_thread(self._store.operations, size + 1, before)
        return operations_pb2.ListOperationsResponse(
            operations=[operation_message(row, run) for row, run in rows[:size]],
            next_page_token=next_page_token(rows, size, lambda row: row[1].number),
        )

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        return await self._operation(request.name)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        """Return an operation when it is done, or as it is when the time is over."""
        timeout = request.timeout
        seconds = timeout.seconds + timeout.nanos / 1e9 if request.HasField("timeout") else None
        if seconds is not None and seconds < 0:
            raise invalid_argument(FieldViolation("timeout", f"got {seconds:g} s, at least 0"))
        deadline = time.monotonic() + min(MAX_WAIT_SECONDS if seconds is None else seconds, MAX_WAIT_SECONDS)
        operation = await self._operation(request.name)
        while not operation.done and time.monotonic() < deadline and not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _POLL_SECONDS)
            operation = await self._operation(request.name)
        return operation

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """End the run; nothing happens to one that is over."""
        self._supervisor.require_ownership()
        job, number = parse_operation(request.name)
        row, run = await asyncio.to_thread(self._store.operation, job, number)
        if not run.ended:
            await asyncio.to_thread(self._store.cancel, job)
            self._supervisor.cancel(row.number)
        return empty_pb2.Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """Forget a run that is over; the job and what it made stay."""
        self._supervisor.require_ownership()
        await asyncio.to_thread(self._store.delete_operation, *parse_operation(request.name))
        return empty_pb2.Empty()

    async def _operation(self, name: str) -> operations_pb2.Operation:
        row, run = await asyncio.to_thread(self._store.operation, *parse_operation(name))
        return operation_message(row, run)
