"""The prune jobs of a server, as a client sees them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import grpc
from google.longrunning import operations_pb2

from secateur.client.async_connection import AsyncStub, async_paged, async_unary
from secateur.client.call import RpcCall
from secateur.client.connection import SyncStub, sync_paged, sync_unary
from secateur.client.failures import CallFailed
from secateur.v1 import prune_pb2

SERVICE = "secateur.v1.PruneService"
PATIENCE_SECONDS = 120.0  # for a server that is away
_INITIAL_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.25, 5.0
# A server that restarts, and a watch that has lasted as long as a call may.
_TRANSIENT_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def create_job(
    job: prune_pb2.PruneJob, *, job_id: str = "", request_id: str | None = None, validate_only: bool = False
) -> RpcCall[prune_pb2.PruneJob]:
    """Have a job checked and kept; it does not run yet.

    Args:
        job: ``display_name``, ``spec`` and ``activation`` are yours to say.
        job_id: last part of its name; "" lets the server choose.
        request_id: the same one with the same job returns the job made the first time; None = a new one.
        validate_only: only check.
    """
    request = prune_pb2.CreatePruneJobRequest(
        prune_job=job,
        prune_job_id=job_id,
        request_id=_with_request_id(request_id),
        validate_only=validate_only,
    )
    return RpcCall(f"{SERVICE}.CreatePruneJob", request)


def run_job(name: str, *, etag: str = "", request_id: str | None = None) -> RpcCall[operations_pb2.Operation]:
    """Queue a job; return the operation of its run."""
    request = prune_pb2.RunPruneJobRequest(name=name, etag=etag, request_id=_with_request_id(request_id))
    return RpcCall(f"{SERVICE}.RunPruneJob", request)


def get_job(name: str) -> RpcCall[prune_pb2.PruneJob]:
    return RpcCall(f"{SERVICE}.GetPruneJob", prune_pb2.GetPruneJobRequest(name=name))


def list_jobs() -> RpcCall[list[prune_pb2.PruneJob]]:
    """Return all jobs, the newest first."""
    return RpcCall(f"{SERVICE}.ListPruneJobs", prune_pb2.ListPruneJobsRequest(), lambda page: page.prune_jobs)


def cancel_job(name: str) -> RpcCall[prune_pb2.PruneJob]:
    """End the run of a job; what it evaluated is kept."""
    return RpcCall(f"{SERVICE}.CancelPruneJob", prune_pb2.CancelPruneJobRequest(name=name))


def delete_job(name: str, *, etag: str = "") -> RpcCall[None]:
    """Remove a job, its study and its checkpoints."""
    request = prune_pb2.DeletePruneJobRequest(name=name, etag=etag)
    return RpcCall(f"{SERVICE}.DeletePruneJob", request, lambda answer: None)


def get_operation(name: str) -> RpcCall[operations_pb2.Operation]:
    """Return the operation of a run."""
    request = operations_pb2.GetOperationRequest(name=name)
    return RpcCall("google.longrunning.Operations.GetOperation", request)


class JobsClient(SyncStub):
    """Calls of ``secateur.v1.PruneService`` and ``google.longrunning.Operations``."""

    create = sync_unary(create_job)
    run = sync_unary(run_job)
    get = sync_unary(get_job)
    list = sync_paged(list_jobs)
    cancel = sync_unary(cancel_job)
    delete = sync_unary(delete_job)
    operation = sync_unary(get_operation)

    def watch(
        self, name: str, cursor: int = 0, patience: float = PATIENCE_SECONDS
    ) -> Iterator[prune_pb2.PruneJobEvent]:
        """Yield the events of a job after a cursor, each once, until its run is over.

        A connection that breaks is made again, and goes on where it was.

        Args:
            cursor: ``sequence`` of the last event seen.
            patience: seconds for which the server may be away.
        """
        watch = _Watch(name, cursor, patience)
        while True:
            try:
                for event in self._connection.stream(watch.call):
                    if watch.is_news(event):
                        yield event
                return
            except CallFailed as failure:
                time.sleep(watch.pause_after(failure))

    def wait(self, name: str, cursor: int = 0) -> operations_pb2.Operation:
        """Watch a job until its run is over; return the operation as it ended."""
        ended = operations_pb2.Operation()
        for event in self.watch(name, cursor):
            if event.HasField("ended"):
                ended = event.ended
        return ended


class AsyncJobsClient(AsyncStub):
    """The same, to be awaited."""

    create = async_unary(create_job)
    run = async_unary(run_job)
    get = async_unary(get_job)
    list = async_paged(list_jobs)
    cancel = async_unary(cancel_job)
    delete = async_unary(delete_job)
    operation = async_unary(get_operation)

    async def watch(
        self, name: str, cursor: int = 0, patience: float = PATIENCE_SECONDS
    ) -> AsyncGenerator[prune_pb2.PruneJobEvent, None]:
        """Yield the events of a job; arguments as of `JobsClient.watch`."""
        watch = _Watch(name, cursor, patience)
        while True:
            try:
                async with aclosing(self._connection.stream(watch.call)) as events:
                    async for event in events:
                        if watch.is_news(event):
                            yield event
                return
            except CallFailed as failure:
                await asyncio.sleep(watch.pause_after(failure))

    async def wait(self, name: str, cursor: int = 0) -> operations_pb2.Operation:
        """Watch a job until its run is over; return the operation as it ended."""
        ended = operations_pb2.Operation()
        async with aclosing(self.watch(name, cursor)) as events:
            async for event in events:
                if event.HasField("ended"):
                    ended = event.ended
        return ended


class _Watch:
    """How far a watch has come, over all its connections."""

    def __init__(self, name: str, cursor: int, patience: float) -> None:
        self._name, self._cursor, self._patience = name, cursor, patience
        self._away_since: float | None = None
        self._pause = _INITIAL_PAUSE_SECONDS

    @property
    def call(self) -> RpcCall[prune_pb2.PruneJobEvent]:
        """What brings the events that were not seen yet."""
        request = prune_pb2.WatchPruneJobRequest(name=self._name, resume_cursor=self._cursor)
        return RpcCall(f"{SERVICE}.WatchPruneJob", request, lambda answer: answer.event)

    def is_news(self, event: prune_pb2.PruneJobEvent) -> bool:
        """Note that the server is there; whether it has more to say than that."""
        self._away_since, self._pause = None, _INITIAL_PAUSE_SECONDS
        self._cursor = event.sequence
        return not event.HasField("heartbeat")

    def pause_after(self, failure: CallFailed) -> float:
        """How long to wait before the next connection; raises the failure if there is to be none."""
        now = time.monotonic()
        self._away_since = now if self._away_since is None else self._away_since
        if failure.code not in _TRANSIENT_CODES or now - self._away_since > self._patience:
            raise failure
        pause, self._pause = self._pause, min(2 * self._pause, _MAX_PAUSE_SECONDS)
        return pause


def _with_request_id(request_id: str | None) -> str:
    return str(uuid.uuid4()) if request_id is None else request_id
