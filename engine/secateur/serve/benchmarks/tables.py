"""Benchmarks in the server's database."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.rpc import code_pb2
from sqlalchemy import ForeignKey, Text, exists, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship, sessionmaker

from secateur.serve.failures import RpcError
from secateur.serve.state import Base

RUNNING, SUCCEEDED, FAILED, CANCELLED = "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"
"""Ends of the names of ``secateur.v1.BenchmarkState``."""


class BenchmarkRow(Base):
    """A benchmark.

    Attributes:
        host, process: whose it is while it runs.
        created_at, ended_at: seconds since 1970.
        result: JSON; empty where nothing was measured.
    """

    __tablename__ = "benchmarks"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    state: Mapped[str]
    host: Mapped[str]
    process: Mapped[int]
    created_at: Mapped[float]
    ended_at: Mapped[float | None] = mapped_column(default=None)
    error: Mapped[str] = mapped_column(default="")
    result: Mapped[str] = mapped_column(Text, default="", deferred=True)
    models: Mapped[list[BenchmarkedModelRow]] = relationship(
        order_by="BenchmarkedModelRow.place", lazy="selectin"
    )


class BenchmarkedModelRow(Base):
    """A model that a benchmark measures, and its version then."""

    __tablename__ = "benchmark_models"

    benchmark: Mapped[int] = mapped_column(ForeignKey("benchmarks.number"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]


class BenchmarkStore:
    """Reads and writes the tables; every method blocks, and is one transaction."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def create(self, models: Sequence[tuple[str, str]]) -> BenchmarkRow:
        """Begin a benchmark of these models and versions."""
        row = BenchmarkRow(
            state=RUNNING, host=socket.gethostname(), process=os.getpid(), created_at=time.time()
        )
        row.models = [
            BenchmarkedModelRow(place=index, model=model, version=version)
            for index, (model, version) in enumerate(models)
        ]
        with self._sessions.begin() as session:
            session.add(row)
        return row

    def finish(self, number: int, state: str, result: Mapping[str, Any] | None, error: str = "") -> None:
        with self._sessions.begin() as session:
            row = session.get_one(BenchmarkRow, number)
            row.state, row.error, row.ended_at = state, error, time.time()
            row.result = json.dumps(result) if result is not None else ""

    def find(self, number: int) -> tuple[BenchmarkRow, dict[str, Any] | None]:
        """Return a benchmark and its result.

        Raises:
            RpcError: NOT_FOUND.
        """
        with self._sessions() as session:
            row = session.get(BenchmarkRow, number)
            if row is None:
                message = f"no benchmark benchmarks/{number}"
                raise RpcError(code_pb2.NOT_FOUND, "BENCHMARK_NOT_FOUND", message)
            return row, json.loads(row.result) if row.result else None

    def page(self, size: int, before: int | None, model: str) -> list[BenchmarkRow]:
        """Return the latest benchmarks, of a model if one is named, older than a number if one is given."""
        query = select(BenchmarkRow).order_by(BenchmarkRow.number.desc()).limit(size)
        if before is not None:
            query = query.where(BenchmarkRow.number < before)
        if model:
            measured = BenchmarkedModelRow.benchmark == BenchmarkRow.number
            query = query.where(exists().where(measured, BenchmarkedModelRow.model == model))
        with self._sessions() as session:
            return list(session.scalars(query))

    def end_orphans(self) -> None:
        """Mark what servers of this machine left running when they were killed."""
        with self._sessions.begin() as session:
            query = select(BenchmarkRow).where(
                BenchmarkRow.state == RUNNING, BenchmarkRow.host == socket.gethostname()
            )
            for row in session.scalars(query):
                if not _alive(row.process) or row.process == os.getpid():
                    row.state, row.ended_at = FAILED, time.time()
                    row.error = "the server ended while it ran"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
