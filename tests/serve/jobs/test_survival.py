"""What jobs live through: SIGKILL of the server, of the job's process, and of both; cancelling; waiting.

Proven with the real pipeline: events stay numbered without a gap and each comes once, whoever was killed;
what was evaluated before is in the study once and is not evaluated again; a job whose process keeps dying
fails with its reason.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.client import CallFailed, Client
from secateur.study.view import view_study
from secateur.v1 import prune_pb2
from tests.serve.jobs.running import JobServer, small_job, until

pytestmark = pytest.mark.slow
LONG = {"evaluations": 200, "patience": 0, "search_windows": 24}
Events = list[prune_pb2.PruneJobEvent]


@pytest.fixture
def server(make_server: Callable[[], JobServer]) -> JobServer:
    """A server to be killed."""
    return make_server()


def begin(client: Client, **changes: object) -> str:
    """Run a job; returns its name."""
    name = client.jobs.create(small_job(**{**LONG, **changes})).name
    client.jobs.run(name)
    return name


def evaluated(client: Client, name: str) -> int:
    return int(client.jobs.get(name).progress.evaluations_done)


def state(client: Client, name: str) -> str:
    return prune_pb2.PruneJobState.Name(client.jobs.get(name).state).removeprefix("PRUNE_JOB_STATE_")


def states(events: Events) -> list[str]:
    names = (prune_pb2.PruneJobState.Name(e.state.state) for e in events if e.HasField("state"))
    return [name.removeprefix("PRUNE_JOB_STATE_") for name in names]


def require_whole(events: Events) -> None:
    """Every event once, in order, none missing; one end."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.HasField("ended") for event in events].count(True) == 1
    assert events[-1].HasField("ended")


def require_evaluated_once(client: Client, name: str) -> None:
    """The study has as many pairs as were told of, each once."""
    job = client.jobs.get(name)
    pairs = view_study(f"{job.folder}/slim.study").trials
    assert max(Counter(pair.architecture for pair in pairs).values()) == 1
    assert sum(pair.round > 0 for pair in pairs) == job.progress.evaluations_done > 50


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends(number: signal.Signals, server: JobServer) -> None:
    """The job goes on meanwhile, and the next server finds it; who watches notices nothing."""
    client = server.start()
    name = begin(client)
    until(lambda: evaluated(client, name) > 0)
    seen = []
    for event in client.jobs.watch(name):
        seen.append(event)
        if event.progress.evaluations_done:
            break
    runner = server.runner(name)
    server.kill(number)
    client = server.start()
    assert server.runner(name) == runner and Path(f"/proc/{runner}").exists()
    seen += client.jobs.watch(name, seen[-1].sequence)
    require_whole(seen)
    assert states(seen) == ["CREATED", "QUEUED", "RUNNING"]
    assert state(client, name) == "SUCCEEDED"
    require_evaluated_once(client, name)


def test_the_process_is_killed(job_server: JobServer, jobs: Client) -> None:
    """It is started again and goes on."""
    name = begin(jobs)
    until(lambda: evaluated(jobs, name) > 10)
    job_server.kill_runner(name)
    events = list(jobs.jobs.watch(name))
    require_whole(events)
    assert states(events) == ["CREATED", "QUEUED", "RUNNING", "RETRYING", "RUNNING"]
    reasons = [event.state.reason for event in events if event.state.reason]
    assert len(reasons) == 1 and reasons[0].startswith("killed by SIGKILL")
    counts = [event.progress.evaluations_done for event in events if event.progress.attempt == 2]
    after = [count for count in counts if count]
    assert after and after[0] > 10, "what the first attempt evaluated counts"
    require_evaluated_once(jobs, name)


def test_the_job_ends_while_no_server_looks(server: JobServer) -> None:
    client = server.start()
    name = begin(client, evaluations=20)
    until(lambda: server.runner(name) is not None)
    runner = server.runner(name)
    server.kill()
    until(lambda: not Path(f"/proc/{runner}").exists())
    client = server.start()
    events = list(client.jobs.watch(name))
    require_whole(events)
    assert states(events) == ["CREATED", "QUEUED", "RUNNING"], "nothing is done twice"
    assert events[-1].ended.HasField("response")


def test_both_are_killed(server: JobServer) -> None:
    client = server.start()
    name = begin(client)
    until(lambda: evaluated(client, name) > 10)
    server.kill()
    server.kill_runner(name)
    client = server.start()
    events = list(client.jobs.watch(name))
    require_whole(events)
    assert state(client, name) == "SUCCEEDED"
    require_evaluated_once(client, name)


def test_a_process_of_the_server_before_is_killed(server: JobServer) -> None:
    """How is not known then, and nothing else is said."""
    client = server.start()
    name = begin(client)
    until(lambda: evaluated(client, name) > 0)
    server.kill()
    client = server.start()
    runner = server.runner(name)
    until(lambda: runner is not None and server.watches(runner))
    server.kill_runner(name)
    reason = next(event.state.reason for event in client.jobs.watch(name) if event.state.reason)
    assert reason.startswith("it ended; how, only the server that started it could tell")
    client.jobs.cancel(name)


def test_a_process_that_keeps_dying(job_server: JobServer, jobs: Client) -> None:
    """Killed each time before it has done anything."""
    name = begin(jobs)
    killed: set[int] = set()
    while len(killed) < 3:
        until(lambda: job_server.runner(name) not in {None, *killed})
        killed.add(job_server.kill_runner(name))
    ended = jobs.jobs.wait(name)
    assert ended.error.message.startswith("its process died 3 times, last: killed by SIGKILL")
    assert state(jobs, name) == "FAILED"


def test_a_job_that_cannot_be_done(jobs: Client) -> None:
    """Is not tried again."""
    name = begin(jobs, keep=[0.0001])
    events = list(jobs.jobs.watch(name))
    assert states(events) == ["CREATED", "QUEUED", "RUNNING"]
    assert "keep: got 0.0001: the smallest feasible is" in events[-1].ended.error.message


def test_cancelled_and_run_again(job_server: JobServer, jobs: Client) -> None:
    """The process ends, the study stays, and another run goes on with it."""
    name = begin(jobs)
    until(lambda: evaluated(jobs, name) > 10)
    runner = job_server.runner(name)
    with pytest.raises(CallFailed, match="ABORTED"):
        jobs.jobs.run(name)
    with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*cancel it first"):
        jobs.jobs.delete(name)
    assert jobs.jobs.cancel(name).state == prune_pb2.PRUNE_JOB_STATE_CANCELLING
    ended = jobs.jobs.wait(name)
    assert ended.error.code == 1 and state(jobs, name) == "CANCELLED"
    assert runner is not None and not Path(f"/proc/{runner}").exists()
    jobs.jobs.cancel(name)  # nothing happens
    last = jobs.jobs.get(name)
    operation = jobs.jobs.run(name)
    events = list(jobs.jobs.watch(name))  # both runs, one after the other
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.ended.name for event in events if event.HasField("ended")] == [
        last.operation,
        operation.name,
    ]
    second = [event.progress.evaluations_done for event in events if event.run == 2]
    assert next(count for count in second if count) > 10
    require_evaluated_once(jobs, name)


def test_jobs_wait_for_each_other(jobs: Client) -> None:
    first, second, third = (begin(jobs, evaluations=20, seed=seed) for seed in range(3))
    until(lambda: state(jobs, first) == "RUNNING")
    assert state(jobs, second) == state(jobs, third) == "QUEUED"
    jobs.jobs.cancel(second)
    assert jobs.jobs.wait(second).error.code == 1, "one that waits is cancelled at once"
    assert state(jobs, first) == "RUNNING"
    folder = Path(jobs.jobs.get(third).folder)
    assert jobs.jobs.wait(third).HasField("response")
    assert state(jobs, first) == "SUCCEEDED"
    jobs.jobs.delete(third)
    assert not folder.exists() and not list(folder.parent.glob(".deleted-*"))
    assert third not in [job.name for job in jobs.jobs.list()]
    with pytest.raises(CallFailed, match="NOT_FOUND"):
        jobs.jobs.get(third)


def test_a_second_server_of_the_folder(server: JobServer) -> None:
    """Answers questions, changes nothing, and takes over when the first is gone."""
    client = server.start()
    name = client.jobs.create(small_job()).name
    first = server.process
    other = server.start()
    assert other.jobs.get(name).name == name
    with pytest.raises(CallFailed, match="another server works on the jobs"):
        other.jobs.run(name)
    assert first is not None
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    until(lambda: _runs(other, name))
    assert other.jobs.wait(name).HasField("response")


def _runs(client: Client, name: str) -> bool:
    try:
        client.jobs.run(name)
    except CallFailed:
        return False
    return True
