"""Jobs on the wire: rows as the messages that clients see, and the names in requests."""

from __future__ import annotations

import re

from google.longrunning import operations_pb2
from google.protobuf import json_format, timestamp_pb2
from google.rpc import status_pb2

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.jobs.tables import JobRow, RunRow
from secateur.v1 import prune_pb2

JOBS, OPERATIONS = "pruneJobs", "operations"


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    """Seconds since 1970 as a message."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def job_name(row: JobRow) -> str:
    return f"{JOBS}/{row.id}"


def operation_name(row: JobRow, run: int) -> str:
    """The resource name of the operation of a run."""
    return f"{OPERATIONS}/{row.id}/{run}"


def etag(row: JobRow) -> str:
    """Changes whenever the state does."""
    return f"{row.run}.{row.attempt}.{row.state}"


def progress_of(row: JobRow) -> prune_pb2.PruneProgress:
    """How far the last run is."""
    return prune_pb2.PruneProgress.FromString(row.progress)


def job_message(row: JobRow, folder: str) -> prune_pb2.PruneJob:
    """A job as clients see it."""
    job = json_format.Parse(row.body, prune_pb2.PruneJob())
    job.name, job.state, job.etag, job.folder = job_name(row), row.state, etag(row), folder
    job.create_time.CopyFrom(timestamp(row.created_at))
    job.update_time.CopyFrom(timestamp(row.updated_at))
    if row.run:
        job.operation = operation_name(row, row.run)
        job.progress.CopyFrom(progress_of(row))
    if row.ended:
        ended = operations_pb2.Operation.FromString(row.ended)
        if ended.HasField("response"):
            ended.response.Unpack(job.result)
        else:
            job.error.CopyFrom(ended.error)
    return job


def operation_message(row: JobRow, run: RunRow) -> operations_pb2.Operation:
    """The operation of a run; once it has ended, to the byte what the event of its end says."""
    if run.ended:
        return operations_pb2.Operation.FromString(run.ended)
    operation = operations_pb2.Operation(name=operation_name(row, run.run))
    operation.metadata.Pack(_metadata(row, run))
    return operation


def ended_operation(
    row: JobRow, run: RunRow, result: prune_pb2.PruneJobResult | status_pb2.Status, now: float
) -> operations_pb2.Operation:
    """The operation of a run that ends now, in the state that its job has."""
    operation = operations_pb2.Operation(name=operation_name(row, run.run), done=True)
    metadata = _metadata(row, run)
    metadata.end_time.CopyFrom(timestamp(now))
    operation.metadata.Pack(metadata)
    if isinstance(result, prune_pb2.PruneJobResult):
        operation.response.Pack(result)
    else:
        operation.error.CopyFrom(result)
    return operation


def _metadata(row: JobRow, run: RunRow) -> prune_pb2.PruneJobMetadata:
    return prune_pb2.PruneJobMetadata(
        prune_job=job_name(row),
        state=prune_pb2.PruneJobState.Name(row.state),
        progress=progress_of(row),
        create_time=timestamp(run.created_at),
    )


ID_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,62}")


def parse_job(name: str, field: str = "name") -> str:
    """The id in ``pruneJobs/ID``.

    Raises:
        RpcError: not of that form.
    """
    collection, _, job = name.partition("/")
    if collection != JOBS or not ID_PATTERN.fullmatch(job):
        raise invalid_argument(FieldViolation(field, f"got {name[:100]!r}, give pruneJobs/JOB"))
    return job


def parse_operation(name: str) -> tuple[str, int]:
    """Job and run in ``operations/JOB/RUN``.

    Raises:
        RpcError: not of that form.
    """
    collection, _, rest = name.partition("/")
    job, _, run = rest.partition("/")
    if collection != OPERATIONS or not ID_PATTERN.fullmatch(job) or not re.fullmatch(r"[1-9][0-9]{0,8}", run):
        raise invalid_argument(FieldViolation("name", f"got {name[:100]!r}, give operations/JOB/RUN"))
    return job, int(run)
