"""What clients ask for: refused in one clear line that names the field, or kept once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import error_details_pb2

from secateur.client import CallFailed, Client
from secateur.v1 import prune_pb2, prune_pb2_grpc
from tests.serve.jobs.running import JobServer, small_job


def refused(
    client: Client, job: prune_pb2.PruneJob, code: str = "INVALID_ARGUMENT", **options: object
) -> tuple[str, str]:
    """The field at fault and what is said of it."""
    with pytest.raises(CallFailed) as failed:
        client.jobs.create(job, **options)
    assert failed.value.code.name == code
    found = error_details_pb2.BadRequest()
    (detail,) = [detail for detail in failed.value.details if detail.Is(found.DESCRIPTOR)]
    detail.Unpack(found)
    (violation,) = found.field_violations
    return violation.field, violation.description


class TestSpecification:
    @pytest.mark.parametrize(
        ("changes", "field", "description"),
        [
            ({"keep": [1.5]}, "keep", "got 1.5: allowed is a fraction over 0 and up to 1"),
            ({"keep": []}, "keep", "got nothing: give keep 0.8"),
            ({"keep": [0.5, 0.5]}, "keep", "each fraction once"),
            ({"budget": "watts"}, "budget", "allowed are params, total, memory, kv, latency"),
            ({"evaluations": 0}, "evaluations", "got 0: at least 1"),
            ({"patience": -1}, "patience", "at least 1 round"),
            ({"seed": -1}, "seed", "a number from 0 up"),
            ({"window": 1}, "window", "at least 2 tokens"),
            ({"calibration_tokens": 10}, "calibration_tokens", "at least 256 (8 windows)"),
            ({"quantum": 0}, "quantum", "at least 1 channel"),
            ({"sampler": "oracle"}, "sampler", "allowed are"),
            ({"recipe": "cake"}, "recipe", "got cake: allowed are secateur, paper"),
            ({"criterion": "luck"}, "criterion", "allowed are"),
            ({"predictor": "oracle"}, "predictor", "allowed are"),
            ({"repair": "glue"}, "repair", "allowed are auto, none"),
            ({"dtype": "int3"}, "dtype", "allowed"),
            ({"workers": 10_000}, "workers", "one per core"),
            ({"speedup": 1.3, "keep": []}, "latency_table", "what a busy server measured would be wrong"),
            ({"speedup": float("nan"), "keep": []}, "speedup", "a number from 1 up"),
            ({"keep": [float("nan")]}, "keep", "allowed is a fraction"),
        ],
    )
    def test_options_in_the_words_of_prune(
        self, changes: dict[str, object], field: str, description: str, jobs: Client
    ) -> None:
        at, said = refused(jobs, small_job(**changes))
        assert at == f"prune_job.spec.{field}" and description in said

    def test_no_source(self, jobs: Client) -> None:
        job = small_job()
        job.spec.ClearField("model")
        assert refused(jobs, job) == ("prune_job.spec.source", "give one of model, path")

    def test_unknown_model(self, jobs: Client) -> None:
        with pytest.raises(CallFailed, match=r"NOT_FOUND.*no model 'nobody'"):
            jobs.jobs.create(small_job(model="nobody"))

    @pytest.mark.parametrize(
        ("activation", "field", "description"),
        [
            ({"model": ""}, "model", "letters, digits"),
            ({"model": "../x"}, "model", "letters, digits"),
            ({"model": "dense", "max_perplexity": 0.5}, "max_perplexity", "a number over 1"),
            ({"model": "dense", "max_perplexity_ratio": -1.0}, "max_perplexity_ratio", "a number over 0"),
        ],
    )
    def test_activation(
        self, activation: dict[str, object], field: str, description: str, jobs: Client
    ) -> None:
        job = small_job()
        job.activation.CopyFrom(prune_pb2.PruneActivation(**activation))  # type: ignore[arg-type]
        at, said = refused(jobs, job)
        assert at == f"prune_job.activation.{field}" and description in said

    def test_activation_of_several(self, jobs: Client) -> None:
        job = small_job(keep=[0.8, 0.6])
        job.activation.model = "dense"
        assert refused(jobs, job)[0] == "prune_job.spec.keep"

    def test_every_field_becomes_its_option(self, jobs: Client, job_server: JobServer) -> None:
        table = job_server.root / "table.json"
        table.write_text("{}")
        given = {
            "budget": "params",
            "recipe": "paper",
            "evaluations": 77,
            "patience": 3,
            "seed": 5,
            "tp": 2,
            "protect": "first:1",
            "batch": 4,
            "context": 99,
            "criterion": "obs",
            "sampler": "random",
            "repair": "auto",
            "predictor": "ridge",
            "workers": 1,
            "dtype": "float16",
            "validation": ["pydoc:test"],
        }
        job = jobs.jobs.create(small_job(**given))
        assert {name: getattr(job.spec, name) for name in given} == given
        import sqlite3

        with sqlite3.connect(job_server.state_dir / "server.db") as database:
            query = "SELECT options FROM prune_jobs WHERE id = ?"
            (text,) = database.execute(query, (job.name.removeprefix("pruneJobs/"),)).fetchone()
        options = json.loads(text)
        lists = {"keep": [0.7], "budget": {"params": None}, "protect": ["first:1"]}
        expected = {**given, **lists, "quantum": 32, "window": 32}
        assert {name: options[name] for name in expected} == expected
        assert options["corpus"] == [str(job_server.root / "text.txt")]
        assert options["model"] == str(job_server.model)


class TestPaths:
    """Only what lies below the roots, whatever it is called."""

    @pytest.mark.parametrize(
        "path",
        ["/etc/passwd", "../secret.txt", "text.txt/../../secret.txt", "link.txt", "linked"],
    )
    @pytest.mark.parametrize("field", ["corpora", "validation", "path", "latency_table"])
    def test_elsewhere(self, path: str, field: str, jobs: Client, job_server: JobServer) -> None:
        root = job_server.root
        secret = root.parent / "secret.txt"
        secret.write_text("secret " * 1000)
        for link, target in (("link.txt", secret), ("linked", root.parent)):
            if not (root / link).is_symlink():
                (root / link).symlink_to(target)
        value = [path] if field in ("corpora", "validation") else path
        at, said = refused(jobs, small_job(**{field: value}), "PERMISSION_DENIED")
        assert at.startswith(f"prune_job.spec.{field}")
        assert "secret " not in said

    @pytest.mark.parametrize("path", ["~/x", "a\0b"])
    def test_no_path(self, path: str, jobs: Client) -> None:
        assert refused(jobs, small_job(corpora=[path]))[0] == "prune_job.spec.corpora[0]"

    def test_a_folder_whose_files_lie_elsewhere(self, jobs: Client, job_server: JobServer) -> None:
        folder = job_server.root / f"folder-{uuid.uuid4().hex}"
        folder.mkdir()
        (folder / "passwords.txt").symlink_to("/etc/passwd")
        at, said = refused(jobs, small_job(corpora=[folder.name]), "PERMISSION_DENIED")
        assert at == "prune_job.spec.corpora[0]" and "allowed are paths below" in said

    def test_a_hub_id(self, jobs: Client) -> None:
        at, said = refused(jobs, small_job(path="someone/model"))
        assert at == "prune_job.spec.path"
        assert said.endswith(
            "got someone/model, there is no such file or folder (hub ids are not offered on a server)"
        )

    @pytest.mark.parametrize(
        "name", ["pruneJobs/../x", "pruneJobs/a/b", "pruneJobs/", "x", "", "pruneJobs/A"]
    )
    def test_names(self, name: str, jobs: Client) -> None:
        for method in (jobs.jobs.get, jobs.jobs.run, jobs.jobs.cancel, jobs.jobs.delete, jobs.jobs.wait):
            with pytest.raises(CallFailed, match=r"INVALID_ARGUMENT: name: got"):
                method(name)

    @pytest.mark.parametrize("job_id", ["../x", "A", "a/b", "-a", "a" * 64])
    def test_ids(self, job_id: str, jobs: Client) -> None:
        assert refused(jobs, small_job(), job_id=job_id)[0] == "prune_job_id"


class TestRepeated:
    def test_one_job_for_one_request(self, jobs: Client) -> None:
        request = str(uuid.uuid4())
        first = jobs.jobs.create(small_job(), request_id=request)
        assert jobs.jobs.create(small_job(), request_id=request) == first
        assert refused(jobs, small_job(seed=1), request_id=request)[0] == "request_id"

    def test_at_once(self, job_server: JobServer) -> None:
        request = prune_pb2.CreatePruneJobRequest(prune_job=small_job(), request_id=str(uuid.uuid4()))
        with grpc.insecure_channel(job_server.address) as channel:
            stub = prune_pb2_grpc.PruneServiceStub(channel)
            calls = [stub.CreatePruneJob.future(request, timeout=30) for _ in range(16)]
            assert len({call.result().name for call in calls}) == 1

    def test_a_taken_id(self, jobs: Client) -> None:
        job_id = f"job-{uuid.uuid4().hex[:8]}"
        assert jobs.jobs.create(small_job(), job_id=job_id).name == f"pruneJobs/{job_id}"
        with pytest.raises(CallFailed, match=r"ALREADY_EXISTS: there is a job"):
            jobs.jobs.create(small_job(), job_id=job_id)

    def test_only_checked(self, jobs: Client) -> None:
        before = len(jobs.jobs.list())
        checked = jobs.jobs.create(small_job(), validate_only=True)
        assert checked.spec == small_job().spec and not checked.name
        assert refused(jobs, small_job(keep=[2.0]), validate_only=True)[0] == "prune_job.spec.keep"
        assert len(jobs.jobs.list()) == before

    def test_what_the_server_says_is_not_taken_from_clients(self, jobs: Client) -> None:
        job = small_job()
        job.name, job.state, job.folder, job.etag = (
            "pruneJobs/x",
            prune_pb2.PRUNE_JOB_STATE_SUCCEEDED,
            "/",
            "1",
        )
        made = jobs.jobs.create(job)
        assert made.name != "pruneJobs/x" and made.state == prune_pb2.PRUNE_JOB_STATE_CREATED
        assert made.folder.endswith(made.name.removeprefix("pruneJobs/"))


class TestLists:
    def test_pages(self, jobs: Client, job_server: JobServer) -> None:
        for _ in range(3):
            jobs.jobs.create(small_job())
        with grpc.insecure_channel(job_server.address) as channel:
            stub = prune_pb2_grpc.PruneServiceStub(channel)
            names, token = [], ""
            while True:
                request = prune_pb2.ListPruneJobsRequest(page_size=2, page_token=token)
                page = stub.ListPruneJobs(request, timeout=10)
                assert len(page.prune_jobs) <= 2
                names += [job.name for job in page.prune_jobs]
                token = page.next_page_token
                if not token:
                    break
            assert names == [job.name for job in jobs.jobs.list()]
            assert len(names) == len(set(names)) >= 3
            for wrong in ({"page_size": -1}, {"page_token": "x"}):
                with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                    stub.ListPruneJobs(prune_pb2.ListPruneJobsRequest(**wrong), timeout=10)  # type: ignore[arg-type]

    def test_delete_needs_the_job_as_it_was_seen(self, jobs: Client) -> None:
        job = jobs.jobs.create(small_job())
        with pytest.raises(CallFailed, match=r"ABORTED: etag: got old"):
            jobs.jobs.delete(job.name, etag="old")
        jobs.jobs.delete(job.name, etag=job.etag)
        with pytest.raises(CallFailed, match="NOT_FOUND"):
            jobs.jobs.get(job.name)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (
            lambda stub: stub.GetOperation(operations_pb2.GetOperationRequest(name="operations/x/1")),
            "NOT_FOUND",
        ),
        (lambda stub: stub.GetOperation(operations_pb2.GetOperationRequest(name="x")), "INVALID_ARGUMENT"),
        (
            lambda stub: stub.GetOperation(operations_pb2.GetOperationRequest(name="operations/x/0")),
            "INVALID_ARG",
        ),
        (
            lambda stub: stub.CancelOperation(operations_pb2.CancelOperationRequest(name="operations/x/1")),
            "NOT_F",
        ),
        (
            lambda stub: stub.DeleteOperation(operations_pb2.DeleteOperationRequest(name="operations/x/1")),
            "NOT_F",
        ),
        (
            lambda stub: stub.ListOperations(operations_pb2.ListOperationsRequest(name="models")),
            "INVALID_ARG",
        ),
        (
            lambda stub: stub.ListOperations(operations_pb2.ListOperationsRequest(filter="done")),
            "INVALID_ARG",
        ),
    ],
)
def test_operations(
    call: Callable[[operations_pb2_grpc.OperationsStub], object], code: str, job_server: JobServer
) -> None:
    with (
        grpc.insecure_channel(job_server.address) as channel,
        pytest.raises(grpc.RpcError, match=code),
    ):
        call(operations_pb2_grpc.OperationsStub(channel))


def test_a_cursor_beyond_the_end(jobs: Client) -> None:
    job = jobs.jobs.create(small_job())
    for cursor in (-1, 2):
        with pytest.raises(CallFailed, match=f"resume_cursor: got {cursor}, the last event is 1"):
            list(jobs.jobs.watch(job.name, cursor))


def test_nothing_of_this_is_an_error_of_the_server(job_server: JobServer) -> None:
    """Runs last: mistakes of users leave no traceback in its log."""
    assert "Traceback" not in (job_server.state_dir / "server.log").read_text()
