"""Many writers at once: no event is lost, none comes twice, and a state never differs from its event."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from secateur.serve.failures import RpcError
from secateur.serve.jobs.outcome import cancelled_error
from secateur.serve.jobs.store import JobStore
from secateur.serve.jobs.tables import CANCELLED, RETRYING, RUNNING, JobRow
from secateur.serve.state import open_state
from secateur.v1 import prune_pb2

URLS = ["sqlite", *filter(None, [os.environ.get("SECATEUR_TEST_POSTGRES")])]


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite, and PostgreSQL where ``SECATEUR_TEST_POSTGRES`` names a database."""
    return f"sqlite:///{tmp_path}/state.db" if request.param == "sqlite" else str(request.param)


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    yield JobStore(open_state(url), f"home-{time.time_ns()}")


def new_job(job: str, request_id: str | None = None) -> JobRow:
    return JobRow(
        id=job,
        request_id=request_id,
        digest=job,
        body='{"spec": {"keep": [0.8]}}',
        options="{}",
        state=prune_pb2.PRUNE_JOB_STATE_CREATED,
        run=0,
        attempt=0,
        cancelling=False,
        sequence=0,
        progress=b"",
        ended=b"",
        created_at=time.time(),
        updated_at=time.time(),
    )


def test_writers_at_once(store: JobStore, url: str) -> None:
    """Each with connections of its own, as server and job process have."""
    number = store.create(new_job("job")).number
    store.enqueue("job", "", "")
    store.set_state(number, RUNNING, attempt=1)
    others = [JobStore(open_state(url), store._home) for _ in range(4)]

    def write(writer: int) -> None:
        for step in range(50):
            if writer == 0:
                others[0].set_state(number, RUNNING if step % 2 else RETRYING)
            else:
                others[writer].add_message(number, 1, f"{writer}.{step}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    row, events = store.events(number, 0, 10_000)
    assert [event.sequence for event in events] == list(range(1, row.sequence + 1))
    assert sorted(event.message for event in events if event.message) == sorted(
        f"{writer}.{step}" for writer in (1, 2, 3) for step in range(50)
    )
    states = [event.state.state for event in events if event.HasField("state")]
    assert states[-1] == row.state and len(states) == 3 + 50


def test_one_run_of_many_asked_for_at_once(store: JobStore) -> None:
    store.create(new_job("job"))

    def ask(_: int) -> str:
        try:
            return str(store.enqueue("job", "", "")[1].run)
        except RpcError as refusal:
            return refusal.reason

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == ["1", *["JOB_UNDER_WAY"] * 7]


def test_the_same_request_for_a_run(store: JobStore) -> None:
    store.create(new_job("job"))
    assert [store.enqueue("job", "", "r")[1].run for _ in range(2)] == [1, 1]


def test_one_that_is_cancelled_stays_that(store: JobStore) -> None:
    number = store.create(new_job("job")).number
    store.enqueue("job", "", "")
    store.cancel("job")
    assert store.set_state(number, RUNNING).state == prune_pb2.PRUNE_JOB_STATE_CANCELLING
    assert store.finish(number, CANCELLED, cancelled_error()).state == CANCELLED
    before = store.read(number).sequence
    store.finish(number, CANCELLED, cancelled_error())
    store.add_message(number, 1, "a process that does not know yet")
    store.set_progress(number, 1, prune_pb2.PruneProgress(stage="search"), [])
    assert store.read(number).sequence == before, "after the end nothing happens any more"


def test_homes_do_not_see_each_other(store: JobStore, url: str) -> None:
    other = JobStore(open_state(url), "elsewhere")
    store.create(new_job("job", "request"))
    assert not other.page(10, None)
    with pytest.raises(RpcError, match="no job"):
        other.find("job")
    assert other.create(new_job("job", "request")).number != store.find("job").number


def test_ended_is_the_operation_to_the_byte(store: JobStore) -> None:
    number = store.create(new_job("job")).number
    store.enqueue("job", "", "")
    store.finish(number, CANCELLED, cancelled_error())
    row, run = store.operation("job", 1)
    _, events = store.events(number, 0, 10)
    assert row.ended == run.ended == events[-1].ended.SerializeToString()
