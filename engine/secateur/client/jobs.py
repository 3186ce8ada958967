"""The prune jobs of a server, as a client sees them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from secateur.client.connection import CallFailed, Connection
from secateur.v1 import prune_pb2, prune_pb2_grpc

PATIENCE_SECONDS = 120.0  # for a server that is away
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 5.0
# A server that restarts, and a watch that has lasted as long as a call may.
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Jobs:
    """Calls of ``secateur.v1.PruneService`` and ``google.longrunning.Operations``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = prune_pb2_grpc.PruneServiceStub(connection.channel)
        self._operations = operations_pb2_grpc.OperationsStub(connection.channel)

    def create(
        self,
        job: prune_pb2.PruneJob,
        *,
        job_id: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> prune_pb2.PruneJob:
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
            request_id=str(uuid.uuid4()) if request_id is None else request_id,
            validate_only=validate_only,
        )
        return self._connection.call(self._stub.CreatePruneJob, request)

    def run(self, name: str, *, etag: str = "", request_id: str | None = None) -> operations_pb2.Operation:
        """Queue a job; return the operation of its run."""
        request = prune_pb2.RunPruneJobRequest(
            name=name, etag=etag, request_id=str(uuid.uuid4()) if request_id is None else request_id
        )
        return self._connection.call(self._stub.RunPruneJob, request)

    def get(self, name: str) -> prune_pb2.PruneJob:
        """Return one job."""
        return self._connection.call(self._stub.GetPruneJob, prune_pb2.GetPruneJobRequest(name=name))

    def list(self) -> list[prune_pb2.PruneJob]:
        """Return all jobs, the newest first."""
        jobs: list[prune_pb2.PruneJob] = []
        token = ""
        while True:
            request = prune_pb2.ListPruneJobsRequest(page_token=token)
            page = self._connection.call(self._stub.ListPruneJobs, request)
            jobs.extend(page.prune_jobs)
            token = page.next_page_token
            if not token:
                return jobs

    def cancel(self, name: str) -> prune_pb2.PruneJob:
        """End the run of a job; what it evaluated is kept."""
        return self._connection.call(self._stub.CancelPruneJob, prune_pb2.CancelPruneJobRequest(name=name))

    def delete(self, name: str, *, etag: str = "") -> None:
        """Remove a job, its study and its checkpoints."""
        request = prune_pb2.DeletePruneJobRequest(name=name, etag=etag)
        self._connection.call(self._stub.DeletePruneJob, request)

    def watch(
        self, name: str, cursor: int = 0, patience: float = PATIENCE_SECONDS
    ) -> Iterator[prune_pb2.PruneJobEvent]:
        """Yield the events of a job after a cursor, each once, until its run is over.

        A connection that breaks is made again, and goes on where it was.

        Args:
            cursor: ``sequence`` of the last event seen.
            patience: seconds for which the server may be away.
        """
        away_since: float | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            request = prune_pb2.WatchPruneJobRequest(name=name, resume_cursor=cursor)
            call = self._stub.WatchPruneJob(request, timeout=self._connection.timeout)
            try:
                for response in call:
                    away_since, pause = None, _FIRST_PAUSE_SECONDS
                    if response.event.WhichOneof("event") != "heartbeat":
                        cursor = response.event.sequence
                        yield response.event
                return
            except grpc.RpcError as error:
                away_since = away_since or time.monotonic()
                if error.code() not in _PASSING or time.monotonic() - away_since > patience:
                    raise CallFailed(self._connection.target, error) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            finally:
                call.cancel()

    def operation(self, name: str) -> operations_pb2.Operation:
        """Return the operation of a run."""
        request = operations_pb2.GetOperationRequest(name=name)
        return self._connection.call(self._operations.GetOperation, request)

    def wait(self, name: str, cursor: int = 0) -> operations_pb2.Operation:
        """Watch a job until its run is over; return the operation as it ended."""
        ended = operations_pb2.Operation()
        for event in self.watch(name, cursor):
            if event.WhichOneof("event") == "ended":
                ended = event.ended
        return ended
