"""A job from creation to its checkpoint, over gRPC, with the real pipeline in a real process.

Proven: the stream has every event once, numbered without a gap, and its last one is what GetOperation
answers; a watcher may leave and come back anywhere; the result is the record, and was activated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.longrunning import operations_pb2

from secateur.client import Client
from secateur.v1 import prune_pb2
from tests.serve.jobs.running import JobServer, small_job


@dataclass
class Done:
    """A job that was run once for all tests that look at it."""

    job: prune_pb2.PruneJob
    events: list[prune_pb2.PruneJobEvent]


@pytest.fixture(scope="module")
def done(job_server: JobServer) -> Done:
    job = small_job()
    job.activation.CopyFrom(prune_pb2.PruneActivation(model="dense", max_perplexity_ratio=1000.0))
    with Client(job_server.address, timeout=60) as client:
        name = client.jobs.create(job).name
        client.jobs.run(name)
        events = list(client.jobs.watch(name))
        return Done(client.jobs.get(name), events)


def kinds(events: list[prune_pb2.PruneJobEvent]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


class TestEvents:
    def test_numbered_without_a_gap(self, done: Done) -> None:
        assert [event.sequence for event in done.events] == list(range(1, len(done.events) + 1))
        times = [event.time.ToNanoseconds() for event in done.events]
        assert times == sorted(times)

    def test_states_in_their_order(self, done: Done) -> None:
        states = [event.state.state for event in done.events if event.WhichOneof("event") == "state"]
        names = [prune_pb2.PruneJobState.Name(state).removeprefix("PRUNE_JOB_STATE_") for state in states]
        assert names == ["CREATED", "QUEUED", "RUNNING", "ACTIVATING"]

    def test_the_last_is_the_operation(self, done: Done, jobs: Client) -> None:
        assert kinds(done.events).count("ended") == 1 and kinds(done.events)[-1] == "ended"
        assert done.events[-1].ended == jobs.jobs.operation(done.job.operation)
        metadata = prune_pb2.PruneJobMetadata()
        assert done.events[-1].ended.metadata.Unpack(metadata)
        assert metadata.state == done.job.state == prune_pb2.PRUNE_JOB_STATE_SUCCEEDED
        assert metadata.progress == done.job.progress and metadata.prune_job == done.job.name

    def test_progress_counts_up_to_all_evaluations(self, done: Done) -> None:
        told = [event.progress for event in done.events if event.WhichOneof("event") == "progress"]
        counts = [progress.evaluations_done for progress in told]
        assert counts == sorted(counts) and counts[-1] == 10
        assert {progress.evaluations_total for progress in told} == {10}
        assert any("single cuts" in progress.stage for progress in told)
        assert all(progress.attempt == 1 for progress in told)
        assert 0 < told[-1].best.kept <= 0.7 and told[-1].best.kl > 0

    def test_front(self, done: Done) -> None:
        """What joined, less what was beaten, is a front: more kept, less KL."""
        front: dict[str, prune_pb2.FrontPoint] = {}
        for event in done.events:
            for new in event.front.joined:
                beaten = [id_ for id_, old in front.items() if new.kept <= old.kept and new.kl <= old.kl]
                front = {id_: point for id_, point in front.items() if id_ not in beaten} | {new.id: new}
        points = sorted(front.values(), key=lambda point: point.kept)
        assert len(points) > 3
        assert [point.kl for point in points] == sorted((point.kl for point in points), reverse=True)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
    def test_replay_from_any_cursor(self, share: float, done: Done, jobs: Client) -> None:
        cursor = int(share * len(done.events))
        assert list(jobs.jobs.watch(done.job.name, cursor)) == done.events[cursor:]


class TestResult:
    def test_is_what_the_checkpoint_says(self, done: Done) -> None:
        (checkpoint,) = done.job.result.checkpoints
        record = json.loads((Path(checkpoint.folder) / "secateur.json").read_text())
        assert checkpoint.folder == record["out"]
        assert checkpoint.kept.non_embedding == record["kept"]["non_embedding"]
        assert checkpoint.slim_perplexity == record["slim"]["perplexity"]["validation"]
        assert checkpoint.kept.non_embedding <= 0.7 * checkpoint.parameters.non_embedding
        assert checkpoint.evaluations == 10

    def test_was_activated(self, done: Done, job_server: JobServer) -> None:
        activation = done.job.result.activation
        assert activation.outcome == prune_pb2.PRUNE_ACTIVATION_OUTCOME_ACTIVATED
        assert activation.model_version == "2"
        folder = done.job.result.checkpoints[0].folder
        lines = (job_server.state_dir / "activations.txt").read_text().splitlines()
        assert lines == [f"load dense {folder}", "activate dense 2"]

    def test_lies_in_the_state_folder(self, done: Done, job_server: JobServer) -> None:
        assert Path(done.job.folder).parent == job_server.state_dir / "jobs"
        assert Path(done.job.result.checkpoints[0].folder).parent == Path(done.job.folder)

    def test_cannot_be_run_again(self, done: Done, jobs: Client) -> None:
        from secateur.client import CallFailed

        with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*has succeeded"):
            jobs.jobs.run(done.job.name)


def test_operations(done: Done, jobs: Client) -> None:
    from google.longrunning import operations_pb2_grpc

    stub = operations_pb2_grpc.OperationsStub(jobs._connection.channel)
    listed = stub.ListOperations(operations_pb2.ListOperationsRequest(name="operations"), timeout=10)
    assert done.job.operation in [operation.name for operation in listed.operations]
    waited = stub.WaitOperation(operations_pb2.WaitOperationRequest(name=done.job.operation), timeout=10)
    assert waited == done.events[-1].ended
