"""What is known of jobs, and the only ways in which it changes.

Every change is one transaction that begins by writing to the job's row, so that of several writers (the
server and the job's own process) one is at it at a time, on SQLite and PostgreSQL alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from google.rpc import code_pb2, status_pb2
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from secateur.serve.failures import FieldViolation, RpcError, invalid_argument
from secateur.serve.jobs.tables import (
    ACTIVE_STATES,
    CANCELLING,
    QUEUED,
    RUNNABLE_STATES,
    TERMINAL_STATES,
    EventRow,
    JobRow,
    RunRow,
    name_of,
)
from secateur.serve.jobs.wire import ended_operation, etag, job_name, timestamp
from secateur.v1 import prune_pb2


class JobStore:
    """The jobs of one folder of jobs.

    Args:
        sessions: of the state database.
        home: identity of the folder: servers may share a database, not a job.
    """

    def __init__(self, sessions: sessionmaker[Session], home: str) -> None:
        self._sessions = sessions
        self._home = home

    def create(self, row: JobRow) -> JobRow:
        """Keep a new job; one that this request made before is returned instead.

        Raises:
            RpcError: its id is taken, or its request id by another job.
        """
        row.home = self._home
        if (existing_row := self.find_by_request_id(row)) is not None:
            return existing_row
        try:
            with self._sessions.begin() as session:
                session.add(row)
                session.flush()
                _state_changed(session, row)
        except IntegrityError:
            if (existing_row := self.find_by_request_id(row)) is not None:  # two of the same at once
                return existing_row
            message = f"there is a job {row.id} already"
            metadata = {"name": job_name(row)}
            raise RpcError(code_pb2.ALREADY_EXISTS, "JOB_EXISTS", message, metadata=metadata) from None
        return row

    def find_by_request_id(self, row: JobRow) -> JobRow | None:
        """The job that the same request made before, if it did.

        Raises:
            RpcError: its request id was used for another job.
        """
        if row.request_id is None:
            return None
        with self._sessions() as session:
            query = select(JobRow).where(JobRow.home == self._home, JobRow.request_id == row.request_id)
            existing_row = session.scalars(query).one_or_none()
        if existing_row is not None and existing_row.digest != row.digest:
            raise invalid_argument(
                FieldViolation("request_id", "got the one of another job, one that was not used before")
            )
        return existing_row

    def find(self, job: str) -> JobRow:
        """The job of that id.

        Raises:
            RpcError: there is none.
        """
        with self._sessions() as session:
            return self._find(session, job)

    def page(self, size: int, before: int | None) -> Sequence[JobRow]:
        """Jobs, the newest first, of those older than number `before`."""
        query = select(JobRow).where(JobRow.home == self._home)
        if before is not None:
            query = query.where(JobRow.number < before)
        with self._sessions() as session:
            return session.scalars(query.order_by(JobRow.number.desc()).limit(size)).all()

    def active_jobs(self) -> Sequence[JobRow]:
        """Jobs that somebody has to see to, in the order in which they were asked for."""
        query = (
            select(JobRow)
            .join(RunRow, (RunRow.job == JobRow.number) & (RunRow.run == JobRow.run))
            .where(JobRow.home == self._home, JobRow.state.in_(ACTIVE_STATES))
            .order_by(RunRow.number)
        )
        with self._sessions() as session:
            return session.scalars(query).all()

    def enqueue(self, job: str, expected_etag: str, request_id: str) -> tuple[JobRow, RunRow]:
        """Ask for another run of a job; the one that this request asked for before is returned instead.

        Raises:
            RpcError: there is no such job, it is not the one meant, is under way, or has its result.
        """
        with self._change(self.find(job).number) as (session, row):
            if request_id and (existing_run := _find_run(session, row, request_id)) is not None:
                return row, existing_run
            _require_etag(row, expected_etag)
            _require_runnable(row)
            row.run, row.attempt, row.cancelling = row.run + 1, 0, False
            row.ended, row.progress = b"", b""
            run = RunRow(
                job=row.number, run=row.run, request_id=request_id or None, created_at=time.time(), ended=b""
            )
            session.add(run)
            row.state = QUEUED
            _state_changed(session, row)
            return row, run

    def cancel(self, job: str) -> JobRow:
        """Ask for the end of a job's run; nothing happens to one that is not under way.

        Raises:
            RpcError: there is no such job.
        """
        with self._change(self.find(job).number) as (session, row):
            if row.state in ACTIVE_STATES and not row.cancelling:
                row.cancelling, row.state = True, CANCELLING
                _state_changed(session, row)
            return row

    def delete(self, job: str, expected_etag: str, remove: Callable[[], None]) -> None:
        """Forget a job.

        Args:
            remove: its files; called while nobody else can change the job.

        Raises:
            RpcError: there is no such job, it is not the one meant, or it is under way.
        """
        with self._change(self.find(job).number) as (session, row):
            _require_etag(row, expected_etag)
            if row.state in ACTIVE_STATES:
                raise _precondition("JOB_UNDER_WAY", f"{row.id} is {name_of(row.state)}; cancel it first")
            remove()
            for table in (EventRow, RunRow):
                session.execute(delete(table).where(table.job == row.number))
            session.execute(delete(JobRow).where(JobRow.number == row.number))

    def read(self, number: int) -> JobRow:
        """The job as it is now.

        Raises:
            RpcError: it was deleted.
        """
        with self._sessions() as session:
            return _existing(session.get(JobRow, number))

    def set_state(self, number: int, state: int, reason: str = "", *, attempt: int | None = None) -> JobRow:
        """Change the state of a job; one that is being cancelled stays that."""
        with self._change(number) as (session, row):
            row.attempt = row.attempt if attempt is None else attempt
            state = CANCELLING if row.cancelling else state
            if state != row.state or reason:
                row.state = state
                _state_changed(session, row, reason)
            return row

    def finish(self, number: int, state: int, result: prune_pb2.PruneJobResult | status_pb2.Status) -> JobRow:
        """End the run of a job."""
        with self._change(number) as (session, row):
            if row.state in TERMINAL_STATES:
                return row
            run = _run(session, row, row.run)
            row.state, row.cancelling = state, False
            operation = ended_operation(row, run, result, time.time())
            row.ended = run.ended = operation.SerializeToString()
            _append_event(session, row, ended=operation)
            return row

    def set_progress(
        self, number: int, run: int, progress: prune_pb2.PruneProgress, front: Sequence[prune_pb2.FrontPoint]
    ) -> None:
        """Note how far a run is, and the points that joined its front."""
        with self._change(number) as (session, row):
            if row.run == run and row.state in ACTIVE_STATES:
                progress.attempt = row.attempt
                row.progress = progress.SerializeToString()
                _append_event(session, row, progress=progress)
                if front:
                    _append_event(session, row, front=prune_pb2.Front(joined=front))

    def add_message(self, number: int, run: int, line: str) -> None:
        """Note a line for people."""
        with self._change(number) as (session, row):
            if row.run == run and row.state in ACTIVE_STATES:
                _append_event(session, row, message=line)

    def events(self, number: int, after: int, limit: int) -> tuple[JobRow, list[prune_pb2.PruneJobEvent]]:
        """The job, and what happened to it after an event.

        Raises:
            RpcError: it was deleted.
        """
        query = (
            select(EventRow.body)
            .where(EventRow.job == number, EventRow.sequence > after)
            .order_by(EventRow.sequence)
            .limit(limit)
        )
        # The row is read first: events come on top of what it says, never the other way round.
        with self._sessions() as session:
            row = _existing(session.get(JobRow, number))
            bodies = session.scalars(query).all() if row.sequence > after else ()
        return row, [prune_pb2.PruneJobEvent.FromString(body) for body in bodies]

    def operation(self, job: str, run: int) -> tuple[JobRow, RunRow]:
        """A run of a job.

        Raises:
            RpcError: there is none.
        """
        with self._sessions() as session:
            row = self._find(session, job)
            return row, _run(session, row, run)

    def operations(self, size: int, before: int | None) -> Sequence[tuple[JobRow, RunRow]]:
        """Runs of all jobs, the newest first, of those older than number `before`."""
        query = select(JobRow, RunRow).join(RunRow, RunRow.job == JobRow.number)
        query = query.where(JobRow.home == self._home)
        if before is not None:
            query = query.where(RunRow.number < before)
        with self._sessions() as session:
            rows = session.execute(query.order_by(RunRow.number.desc()).limit(size)).all()
        return [(row, run) for row, run in rows]

    def delete_operation(self, job: str, run: int) -> None:
        """Forget a run that has ended; its job stays.

        Raises:
            RpcError: there is none, or it is under way.
        """
        row, run_row = self.operation(job, run)
        if not run_row.ended:
            raise _precondition("OPERATION_UNDER_WAY", f"run {run} of {row.id} is under way; cancel it first")
        with self._sessions.begin() as session:
            session.execute(delete(RunRow).where(RunRow.number == run_row.number))

    def _find(self, session: Session, job: str) -> JobRow:
        query = select(JobRow).where(JobRow.home == self._home, JobRow.id == job)
        row = session.scalars(query).one_or_none()
        if row is None:
            raise RpcError(
                code_pb2.NOT_FOUND, "JOB_NOT_FOUND", f"no job pruneJobs/{job}", metadata={"job": job}
            )
        return row

    @contextmanager
    def _change(self, number: int) -> Iterator[tuple[Session, JobRow]]:
        """A transaction on one job, in which nobody else changes it."""
        with self._sessions.begin() as session:
            # A write first: it takes the lock, and what is read afterwards is up to date.
            session.execute(update(JobRow).where(JobRow.number == number).values(updated_at=time.time()))
            yield session, _existing(session.get(JobRow, number))


def _existing(row: JobRow | None) -> JobRow:
    if row is None:
        raise RpcError(code_pb2.NOT_FOUND, "JOB_NOT_FOUND", "the job was deleted")
    return row


def _append_event(session: Session, row: JobRow, **event: Any) -> None:
    row.sequence += 1
    event_message = prune_pb2.PruneJobEvent(
        sequence=row.sequence, time=timestamp(time.time()), run=row.run, **event
    )
    session.add(EventRow(job=row.number, sequence=row.sequence, body=event_message.SerializeToString()))


def _state_changed(session: Session, row: JobRow, reason: str = "") -> None:
    state = prune_pb2.PruneJobState.Name(row.state)
    _append_event(session, row, state=prune_pb2.StateChange(state=state, reason=reason))


def _run(session: Session, row: JobRow, run: int) -> RunRow:
    query = select(RunRow).where(RunRow.job == row.number, RunRow.run == run)
    run_row = session.scalars(query).one_or_none()
    if run_row is None:
        message = f"no operation operations/{row.id}/{run}"
        raise RpcError(code_pb2.NOT_FOUND, "OPERATION_NOT_FOUND", message, metadata={"job": row.id})
    return run_row


def _find_run(session: Session, row: JobRow, request_id: str) -> RunRow | None:
    query = select(RunRow).where(RunRow.job == row.number, RunRow.request_id == request_id)
    return session.scalars(query).one_or_none()


def _require_etag(row: JobRow, expected_etag: str) -> None:
    if expected_etag and expected_etag != etag(row):
        message = f"etag: got {expected_etag}, the job's is {etag(row)}: it has changed"
        raise RpcError(code_pb2.ABORTED, "ETAG_MISMATCH", message, metadata={"etag": etag(row)})


def _require_runnable(row: JobRow) -> None:
    if row.state in ACTIVE_STATES:
        message = f"run {row.run} of {row.id} is {name_of(row.state)}"
        raise RpcError(code_pb2.ABORTED, "JOB_UNDER_WAY", message, metadata={"job": row.id})
    if row.state not in RUNNABLE_STATES:
        raise _precondition("JOB_HAS_RESULT", f"{row.id} has succeeded; make another job")


def _precondition(reason: str, message: str) -> RpcError:
    return RpcError(code_pb2.FAILED_PRECONDITION, reason, message)
