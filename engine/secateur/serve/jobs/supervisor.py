"""Sees to the jobs that are under way: queue, processes, restarts, activation.

One server at a time works on the jobs of a folder: who holds its lock. Another one that shares the folder
answers questions, and takes over when the lock is free: the processes of jobs do not end with the server
that started them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.rpc import status_pb2
from sqlalchemy.exc import SQLAlchemyError

from secateur.config.serve import JobOptions
from secateur.locks import try_lock
from secateur.serve.failures import RpcError, unavailable
from secateur.serve.jobs import process
from secateur.serve.jobs.activation import activate_if_good
from secateur.serve.jobs.outcome import (
    ProcessExit,
    cancelled_error,
    clear_outcome,
    died_error,
    internal_error,
    read_process_exit,
)
from secateur.serve.jobs.placement import Placement
from secateur.serve.jobs.placer import Placer
from secateur.serve.jobs.store import JobStore
from secateur.serve.jobs.tables import (
    ACTIVATING,
    CANCELLED,
    FAILED,
    QUEUED,
    RETRYING,
    RUNNING,
    SUCCEEDED,
    JobRow,
)
from secateur.serve.models.deployments import DeploymentManager
from secateur.v1 import prune_pb2

POLL_SECONDS = 1.0
_DELETED = ".deleted-"
log = logging.getLogger(__name__)


class Supervisor:
    """Runs the jobs of a folder.

    Args:
        state: URL of the state database, for the jobs' processes.
        folder: where every job has a folder of its own.
        placer: says where a job computes.
    """

    def __init__(
        self,
        store: JobStore,
        state: str,
        folder: Path,
        deployments: DeploymentManager,
        options: JobOptions,
        placer: Placer,
    ) -> None:
        self._store = store
        self._state = state
        self._folder = folder
        self._deployments = deployments
        self._options = options
        self._placer = placer
        self._lock: int | None = None
        self._wake = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._driven: dict[int, asyncio.Task[None]] = {}
        self._cancelled: dict[int, asyncio.Event] = {}

    @property
    def in_progress(self) -> int:
        """Jobs whose process is being looked after."""
        return len(self._driven)

    def folder_of(self, job: str) -> Path:
        """The folder of a job."""
        return self._folder / job

    def require_ownership(self) -> None:
        """Check that this server works on the jobs of its folder.

        Raises:
            RpcError: another one does, or none yet.
        """
        if self._work is None:
            raise unavailable("JOBS_STARTING", "the server is still starting, or already ending", 1.0)
        if self._lock is None:
            raise unavailable("JOBS_ELSEWHERE", "another server works on the jobs of this state folder", 1.0)

    async def start(self) -> None:
        """Begin to work on the jobs, now or when no other server does."""
        self._claim_jobs()
        self._work = asyncio.create_task(self._run_loop())

    async def close(self) -> None:
        """Leave the jobs alone; their processes go on."""
        tasks = [*self._driven.values(), *([self._work] if self._work else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def wake(self) -> None:
        """Say that a job was queued."""
        self._wake.set()

    def cancel(self, number: int) -> None:
        """Say that a job is to be cancelled, after the store was told."""
        if number in self._cancelled:
            self._cancelled[number].set()
        self._wake.set()

    def mark_deleted(self, job: str) -> None:
        """Take the files of a job out of the way in one step; `remove_deleted` removes them."""
        folder = self.folder_of(job)
        if folder.is_dir():
            os.rename(folder, self._folder / f"{_DELETED}{uuid.uuid4().hex}")

    def remove_deleted(self) -> None:
        """Remove what was set aside, also by a server that was killed before it could."""
        for leftover in self._folder.glob(f"{_DELETED}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _claim_jobs(self) -> None:
        """Hold the lock if nobody does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = try_lock(self._folder / "server.lock")
        if self._lock is not None:
            self.remove_deleted()

    async def _run_loop(self) -> None:
        while True:
            try:
                if self._lock is None:
                    self._claim_jobs()
                else:
                    await self._start_queued()
            except (SQLAlchemyError, OSError) as error:  # the next time may be better
                log.warning("jobs cannot be seen to: %s", " ".join(str(error).split())[:200])
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    async def _start_queued(self) -> None:
        """Look after every job that has, or may have, a process; start queued ones where there is room."""
        rows = await asyncio.to_thread(self._store.active_jobs)
        # Those that were running when another server ended come before those that wait.
        for row in sorted(rows, key=lambda row: row.state == QUEUED):
            if row.number in self._driven:
                continue
            if row.state != QUEUED or len(self._driven) < self._options.concurrency:
                self._driven[row.number] = asyncio.create_task(self._drive(row))

    async def _drive(self, row: JobRow) -> None:
        """See a job to its end."""
        cancel_requested = self._cancelled[row.number] = asyncio.Event()
        try:
            if await self._is_cancelled(row):  # before we listened
                cancel_requested.set()
            try:
                await self._run_to_completion(row, cancel_requested)
            except (SQLAlchemyError, RpcError):
                raise
            except Exception as error:
                log.exception("%s failed unexpectedly", row.id)
                await self._finish(row, FAILED, internal_error(error))
        except (
            SQLAlchemyError,
            RpcError,
        ) as error:  # is looked after again in a moment, if it is still there
            log.warning("%s cannot be seen to: %s", row.id, " ".join(str(error).split())[:200])
            await asyncio.sleep(POLL_SECONDS)
        finally:
            del self._driven[row.number], self._cancelled[row.number]
            self._placer.release(row.number)
            self._wake.set()

    async def _run_to_completion(self, row: JobRow, cancel_requested: asyncio.Event) -> None:
        folder, attempt = self.folder_of(row.id), row.attempt
        runner = await asyncio.to_thread(process.find_process, folder)
        if runner is None and row.state in (QUEUED, RETRYING):
            runner, attempt = await self._attempt(row, attempt + 1)
        while True:
            process_exit = await self._wait_for_exit(row, runner, attempt, cancel_requested)
            if await self._is_cancelled(row):
                return await self._finish(row, CANCELLED, cancelled_error())
            if process_exit.result is not None:
                return await self._activate_and_finish(row, process_exit.result)
            if process_exit.refusal is not None:
                return await self._finish(row, FAILED, process_exit.refusal)
            if attempt >= self._options.attempts:
                return await self._finish(row, FAILED, died_error(process_exit.death, attempt))
            wait = self._options.back_off_seconds * 4 ** (attempt - 1)
            await self._set_state(row, RETRYING, f"{process_exit.death}; again in {wait:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(cancel_requested.wait(), wait)
            runner, attempt = await self._attempt(row, attempt + 1)

    async def _attempt(self, row: JobRow, attempt: int) -> tuple[process.JobProcess | None, int]:
        """Start a process, unless the job is to be cancelled."""
        if await self._is_cancelled(row):
            return None, attempt
        folder = self.folder_of(row.id)
        await asyncio.to_thread(folder.mkdir, mode=0o700, exist_ok=True)
        await asyncio.to_thread(clear_outcome, folder)
        placement = await self._place(row)
        if placement is None:
            return None, attempt
        await self._set_state(row, RUNNING, placement.reason, attempt=attempt)
        started = await asyncio.to_thread(
            process.start_process,
            folder,
            row.number,
            self._options.nice,
            placement.device,
            self._state,
            _log(folder, row, attempt),
        )
        return started, attempt

    async def _place(self, row: JobRow) -> Placement | None:
        """Find a device for a job, waiting for one if need be; None if it was cancelled meanwhile."""
        options, folder, reason = json.loads(row.options), self.folder_of(row.id), ""
        while True:
            placement = await asyncio.to_thread(self._placer.place, row.number, options, folder)
            if placement.device:
                return placement
            if placement.reason != reason:
                reason = placement.reason
                await self._set_state(row, QUEUED, reason)
            await asyncio.sleep(POLL_SECONDS)
            if await self._is_cancelled(row):
                return None

    async def _wait_for_exit(
        self, row: JobRow, runner: process.JobProcess | None, attempt: int, cancel_requested: asyncio.Event
    ) -> ProcessExit:
        """Wait for the end of a process, or bring it about."""
        folder, status = self.folder_of(row.id), None
        while runner is not None:
            try:
                await _first_completed(runner.gone(), cancel_requested.wait())
                if cancel_requested.is_set():
                    await runner.end()
            except asyncio.CancelledError:
                runner.release()
                raise
            status = await asyncio.to_thread(runner.collect)
            # It found another at the job, which a server before us had just started.
            runner = (
                await asyncio.to_thread(process.find_process, folder)
                if status == process.LOCKED_EXIT_STATUS
                else None
            )
        return await asyncio.to_thread(read_process_exit, folder, status, _log(folder, row, attempt))

    async def _activate_and_finish(self, row: JobRow, result: prune_pb2.PruneJobResult) -> None:
        """Put the result into service if that was asked for."""
        activation = _asked(row)
        if activation is not None:
            await self._set_state(row, ACTIVATING)
            result.activation.CopyFrom(
                await activate_if_good(activation, result.checkpoints[0], self._deployments)
            )
        await self._finish(row, SUCCEEDED, result)

    async def _is_cancelled(self, row: JobRow) -> bool:
        return (await asyncio.to_thread(self._store.read, row.number)).cancelling

    async def _set_state(self, row: JobRow, state: int, reason: str = "", **changes: Any) -> None:
        await asyncio.to_thread(self._store.set_state, row.number, state, reason, **changes)

    async def _finish(
        self, row: JobRow, state: int, result: prune_pb2.PruneJobResult | status_pb2.Status
    ) -> None:
        await asyncio.to_thread(self._store.finish, row.number, state, result)


async def _first_completed(*events: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first; the others are given up, and over when this returns."""
    tasks = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _asked(row: JobRow) -> prune_pb2.PruneActivation | None:
    job = json_format.Parse(row.body, prune_pb2.PruneJob())
    return job.activation if job.HasField("activation") else None


def _log(folder: Path, row: JobRow, attempt: int) -> Path:
    """What the process of an attempt prints."""
    return folder / f"log-{row.run}-{attempt}.txt"
