"""The tables of prune jobs.

Everything that happens to a job, by the server or by the job's process, is one transaction: the row of the
job changes and the event that says so is added together. So no SIGKILL, of one or both, leaves a state
without its event, an event twice, or a gap in their numbers.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from secateur.serve.state import Base
from secateur.v1 import prune_pb2

CREATED = prune_pb2.PRUNE_JOB_STATE_CREATED
QUEUED = prune_pb2.PRUNE_JOB_STATE_QUEUED
RUNNING = prune_pb2.PRUNE_JOB_STATE_RUNNING
RETRYING = prune_pb2.PRUNE_JOB_STATE_RETRYING
ACTIVATING = prune_pb2.PRUNE_JOB_STATE_ACTIVATING
CANCELLING = prune_pb2.PRUNE_JOB_STATE_CANCELLING
SUCCEEDED = prune_pb2.PRUNE_JOB_STATE_SUCCEEDED
FAILED = prune_pb2.PRUNE_JOB_STATE_FAILED
CANCELLED = prune_pb2.PRUNE_JOB_STATE_CANCELLED

ACTIVE_STATES = (QUEUED, RUNNING, RETRYING, ACTIVATING, CANCELLING)
TERMINAL_STATES = (SUCCEEDED, FAILED, CANCELLED)
RUNNABLE_STATES = (CREATED, FAILED, CANCELLED)


def name_of(state: int) -> str:
    """A state in a word, such as ``running``."""
    return prune_pb2.PruneJobState.Name(state).removeprefix("PRUNE_JOB_STATE_").lower()


class JobRow(Base):
    """A prune job.

    Attributes:
        number: grows from job to job; the order of lists and of the queue's ties.
        home: identity of the folder of jobs that this one's files lie in.
        body: what the client asked for, a ``PruneJob`` as JSON.
        digest: of `body`, to tell whether a repeated request is the same.
        state: a ``PruneJobState``.
        run: number of the last run; 0 before the first.
        attempt: of the last run.
        cancelling: somebody wants the run to end.
        sequence: of the last event.
        progress: the last ``PruneProgress``, serialised.
        ended: the ``Operation`` of the last run, serialised; empty while there is none that has ended.
        options: the checked ``PruneOptions``, as JSON; paths and models are resolved.
        created_at, updated_at: seconds since 1970.
    """

    __tablename__ = "prune_jobs"
    __table_args__ = (UniqueConstraint("home", "id"), UniqueConstraint("home", "request_id"))

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    home: Mapped[str]
    id: Mapped[str]
    request_id: Mapped[str | None]
    digest: Mapped[str]
    body: Mapped[str]
    options: Mapped[str]
    state: Mapped[int]
    run: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    cancelling: Mapped[bool] = mapped_column(default=False)
    sequence: Mapped[int] = mapped_column(default=0)
    progress: Mapped[bytes] = mapped_column(default=b"")
    ended: Mapped[bytes] = mapped_column(default=b"")
    created_at: Mapped[float]
    updated_at: Mapped[float]


class RunRow(Base):
    """A run of a job: what an operation is of.

    Attributes:
        ended: the ``Operation``, serialised; empty while the run is under way.
    """

    __tablename__ = "prune_runs"
    __table_args__ = (UniqueConstraint("job", "run"), UniqueConstraint("job", "request_id"))

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[int] = mapped_column(ForeignKey("prune_jobs.number", ondelete="CASCADE"))
    run: Mapped[int]
    request_id: Mapped[str | None]
    created_at: Mapped[float]
    ended: Mapped[bytes] = mapped_column(default=b"")


class EventRow(Base):
    """Something that happened to a job.

    Attributes:
        body: a ``PruneJobEvent``, serialised.
    """

    __tablename__ = "prune_events"

    job: Mapped[int] = mapped_column(ForeignKey("prune_jobs.number", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    body: Mapped[bytes]
