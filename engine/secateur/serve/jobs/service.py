"""secateur.v1.PruneService: jobs made, run, watched, cancelled and deleted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, json_format

from secateur.config.values import to_json
from secateur.serve.failures import FieldViolation, invalid_argument, unavailable
from secateur.serve.guard.call import current_principal
from secateur.serve.jobs.specification import options_of
from secateur.serve.jobs.store import JobStore
from secateur.serve.jobs.supervisor import Supervisor
from secateur.serve.jobs.tables import CREATED, TERMINAL_STATES, JobRow
from secateur.serve.jobs.wire import ID_PATTERN, job_message, operation_message, parse_job, timestamp
from secateur.serve.models.deployments import DeploymentManager
from secateur.serve.pages import next_page_token, parse_page
from secateur.v1 import prune_pb2, prune_pb2_grpc

WATCH_SECONDS = 0.25  # between two looks for events
HEARTBEAT_SECONDS = 10.0
_EVENTS_PER_PAGE = 500
MAX_REQUEST_ID = 128


class PruneService(prune_pb2_grpc.PruneServiceServicer):
    """Prune jobs of a server.

    Args:
        roots: folders below which clients may name files.
    """

    def __init__(
        self, store: JobStore, supervisor: Supervisor, deployments: DeploymentManager, roots: Sequence[Path]
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._deployments = deployments
        self._roots = tuple(root.resolve() for root in roots)
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all watches: whoever watches may go on at another server, or at this one when it is back."""
        self._closing.set()

    async def CreatePruneJob(
        self, request: prune_pb2.CreatePruneJobRequest, context: grpc.aio.ServicerContext
    ) -> prune_pb2.PruneJob:
        """Check a job and keep it."""
        self._supervisor.require_ownership()
        check_request_id(request.request_id)
        job = self._message(await asyncio.to_thread(self._made, request))
        if request.validate_only:
            for field in ("name", "folder", "etag", "create_time", "update_time"):
                job.ClearField(field)
        return job

    async def GetPruneJob(
        self, request: prune_pb2.GetPruneJobRequest, context: grpc.aio.ServicerContext
    ) -> prune_pb2.PruneJob:
        return self._message(await asyncio.to_thread(self._store.find, parse_job(request.name)))

    async def ListPruneJobs(
        self, request: prune_pb2.ListPruneJobsRequest, context: grpc.aio.ServicerContext
    ) -> prune_pb2.ListPruneJobsResponse:
        """Return a page of jobs; the page token is the number of the last job of the page before."""
        size, before = parse_page(request.page_size, request.page_token)
        rows = await asyncio.to_thread(self._store.page, size + 1, before)
        return prune_pb2.ListPruneJobsResponse(
            prune_jobs=[self._message(row) for row in rows[:size]],
            next_page_token=next_page_token(rows, size, lambda row: row.number),
        )

    async def DeletePruneJob(
        self, request: prune_pb2.DeletePruneJobRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        """Remove a job and its files."""
        self._supervisor.require_ownership()
        job = parse_job(request.name)
        remove = partial(self._supervisor.mark_deleted, job)
        await asyncio.to_thread(self._store.delete, job, request.etag, remove)
        await asyncio.to_thread(self._supervisor.remove_deleted)
        return empty_pb2.Empty()

    async def RunPruneJob(
        self, request: prune_pb2.RunPruneJobRequest, context: grpc.aio.ServicerContext
    ) -> operations_pb2.Operation:
        self._supervisor.require_ownership()
        check_request_id(request.request_id)
        job = parse_job(request.name)
        row, run = await asyncio.to_thread(self._store.enqueue, job, request.etag, own_id(request.request_id))
        self._supervisor.wake()
        return operation_message(row, run)

    async def CancelPruneJob(
        self, request: prune_pb2.CancelPruneJobRequest, context: grpc.aio.ServicerContext
    ) -> prune_pb2.PruneJob:
        self._supervisor.require_ownership()
        row = await asyncio.to_thread(self._store.cancel, parse_job(request.name))
        self._supervisor.cancel(row.number)
        return self._message(row)

    async def WatchPruneJob(
        self, request: prune_pb2.WatchPruneJobRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[prune_pb2.WatchPruneJobResponse]:
        """Stream the events of a job after a cursor, as they come."""
        row = await asyncio.to_thread(self._store.find, parse_job(request.name))
        cursor = request.resume_cursor
        if not 0 <= cursor <= row.sequence:
            description = f"got {cursor}, the last event is {row.sequence}"
            raise invalid_argument(FieldViolation("resume_cursor", description))
        silent_since = time.monotonic()
        while not self._closing.is_set():
            row, events = await asyncio.to_thread(self._store.events, row.number, cursor, _EVENTS_PER_PAGE)
            if not events and time.monotonic() - silent_since >= HEARTBEAT_SECONDS:
                events = [_heartbeat(row, cursor)]
            for event in events:
                yield prune_pb2.WatchPruneJobResponse(event=event)
                cursor, silent_since = event.sequence, time.monotonic()
            if row.state in TERMINAL_STATES and cursor == row.sequence:
                return
            if len(events) < _EVENTS_PER_PAGE:
                await self._pause()
        raise unavailable("SHUTTING_DOWN", "the server is shutting down; the job goes on", 1.0)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), WATCH_SECONDS)

    def _made(self, request: prune_pb2.CreatePruneJobRequest) -> JobRow:
        """The job that a request asks for, kept unless it is only to be checked."""
        job, row = _row_from_request(request)
        existing_row = None if request.validate_only else self._store.find_by_request_id(row)
        if existing_row is not None:
            return existing_row
        folder = self._supervisor.folder_of(row.id)
        row.options = json.dumps(
            to_json(options_of(job, folder, self._roots, self._deployments.checkpoint_folder))
        )
        return row if request.validate_only else self._store.create(row)

    def _message(self, row: JobRow) -> prune_pb2.PruneJob:
        return job_message(row, str(self._supervisor.folder_of(row.id)))


def _row_from_request(request: prune_pb2.CreatePruneJobRequest) -> tuple[prune_pb2.PruneJob, JobRow]:
    """What of a request is the client's to say, and a row for it."""
    given = request.prune_job
    job = prune_pb2.PruneJob(display_name=given.display_name, spec=given.spec)
    if given.HasField("activation"):
        job.activation.CopyFrom(given.activation)
    if request.prune_job_id and not ID_PATTERN.fullmatch(request.prune_job_id):
        allowed = "a lower-case letter, then lower-case letters, digits and '-', at most 63"
        raise invalid_argument(
            FieldViolation("prune_job_id", f"got {request.prune_job_id[:100]!r}, {allowed}")
        )
    body = json_format.MessageToJson(job, indent=None)
    return job, JobRow(
        id=request.prune_job_id or f"prune-{uuid.uuid4().hex[:12]}",
        request_id=own_id(request.request_id) or None,
        digest=hashlib.sha256(f"{request.prune_job_id} {body}".encode()).hexdigest(),
        body=body,
        state=CREATED,
        run=0,
        attempt=0,
        cancelling=False,
        sequence=0,
        progress=b"",
        ended=b"",
        created_at=time.time(),
        updated_at=time.time(),
    )


def _heartbeat(row: JobRow, cursor: int) -> prune_pb2.PruneJobEvent:
    return prune_pb2.PruneJobEvent(
        sequence=cursor, time=timestamp(time.time()), run=row.run, heartbeat=prune_pb2.Heartbeat()
    )


def own_id(request_id: str) -> str:
    """Return what is kept of a request's id, which belongs to its caller: two callers may use the same."""
    return request_id and f"{current_principal()}\n{request_id}"


def check_request_id(request_id: str) -> None:
    """Refuse one that is too long to be one."""
    if len(request_id) > MAX_REQUEST_ID:
        raise invalid_argument(
            FieldViolation("request_id", f"got {len(request_id)} characters, at most {MAX_REQUEST_ID}")
        )
