"""`secateur models`: list, load and swap the models of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import console, emit_json, print_status
from secateur.cli.options import Json, OptionCommand
from secateur.cli.target import with_client

if TYPE_CHECKING:
    from rich.table import Table

    from secateur.client import Client
    from secateur.v1 import models_pb2

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or alias of a model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Version of the model, such as 2.")]
Etag = Annotated[
    str, typer.Option(help="Act only if the model has not changed since `get` showed this etag.")
]
Force = Annotated[bool, typer.Option("--force", help="Act even if the version is active.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check, and plan the memory; change nothing.")]

app = typer.Typer(
    name="models",
    no_args_is_help=True,
    help="""List, load and swap the models of a running server. Every command takes --json.

Example: secateur models list

Example: secateur models load slim /srv/checkpoints/slim-0.7 --activate

Example: secateur models rollback slim
""",
)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app)


@app.command("list", cls=OptionCommand)
@with_client
def list_(client: Client, json: Json = False) -> None:
    """List the models and their versions.

    Example: secateur models list
    """
    models = client.models.list()
    if json:
        emit_json({"models": [_document(model) for model in models]})
    else:
        _print(models)


@app.command(cls=OptionCommand)
@with_client
def get(client: Client, name: Name, json: Json = False) -> None:
    """Show a model: its versions, where they came from, and their requests.

    Example: secateur models get slim
    """
    _show(client.models.get(name), json)


@app.command(cls=OptionCommand)
@with_client
def load(
    client: Client,
    name: Name,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="Checkpoint folder on the server, or a version that the model has."
        ),
    ],
    activate: Annotated[bool, typer.Option("--activate", help="Activate it once it is loaded.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Load a checkpoint as a new version of a model, while the others keep answering.

    Example: secateur models load slim /srv/checkpoints/slim-0.7 --activate
    """
    if dry_run:
        if folder.isdigit():
            _show_plan(client.models.plan_activate(name, folder), f"{name} version {folder}", json)
        else:
            _show_plan(client.models.plan_load(name, folder), folder, json)
        return
    version = _load(client, name, folder)
    if not json:
        print_status(
            f"{version.model} version {version.version} loaded in {version.load_seconds:.1f} s, checked"
        )
    if activate:
        model = client.models.activate(name, version.version)
        _show(model, json)
    elif json:
        emit_json(_document(version))


@app.command(cls=OptionCommand)
@with_client
def activate(
    client: Client,
    name: Name,
    version: Version,
    etag: Etag = "",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a version answer the calls that name no version. It is loaded first if necessary.

    Example: secateur models activate slim 2
    """
    if dry_run:
        answer = client.models.plan_activate(name, version)
        _show_plan(answer, f"{name} version {version}", json)
    else:
        _show(client.models.activate(name, version, etag=etag), json)


@app.command(cls=OptionCommand)
@with_client
def rollback(client: Client, name: Name, etag: Etag = "", json: Json = False) -> None:
    """Go back to the version that was active before.

    Example: secateur models rollback slim
    """
    _show(client.models.rollback(name, etag=etag), json)


@app.command(cls=OptionCommand)
@with_client
def unload(
    client: Client,
    name: Name,
    version: Version,
    etag: Etag = "",
    force: Force = False,
    json: Json = False,
) -> None:
    """Let a version finish its requests, then free its memory.

    Example: secateur models unload slim 1
    """
    _show(client.models.unload(name, version, etag=etag, force=force), json)


@app.command(cls=OptionCommand)
@with_client
def delete(
    client: Client,
    name: Name,
    version: Version,
    etag: Etag = "",
    force: Force = False,
    json: Json = False,
) -> None:
    """Unload a version and remove it from the model. Its folder stays.

    Example: secateur models delete slim 1
    """
    client.models.delete(name, version, etag=etag, force=force)
    if json:
        emit_json({"model": name, "version": version, "deleted": True})
    else:
        print_status(f"{name} version {version} deleted; its folder stays")


@app.command(cls=OptionCommand)
@with_client
def alias(
    client: Client,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help='Other name for a model, such as "default".')],
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The model; without it, the alias is removed.")
    ] = "",
    json: Json = False,
) -> None:
    """Give a model another name, or remove that name.

    Example: secateur models alias default slim
    """
    if name:
        _show(client.models.set_alias(alias, name), json)
        return
    client.models.delete_alias(alias)
    if json:
        emit_json({"alias": alias, "deleted": True})
    else:
        print_status(f"alias {alias} removed")


def _load(client: Client, name: str, source: str) -> models_pb2.ModelVersion:
    if source.isdigit():
        return client.models.load_version(name, source)
    return client.models.load(name, source)


def _document(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    document: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return document


def _show(model: models_pb2.Model, as_json: bool) -> None:
    if as_json:
        emit_json(_document(model))
        return
    _print([model])
    for version in model.versions:
        for line in _facts(version):
            print_status(line)


def _show_plan(answer: Any, what: str, as_json: bool) -> None:
    plan = answer.plan
    if as_json:
        emit_json(_document(answer))
        return
    if not plan.needed_bytes:
        print_status(f"{what} is loaded already")
        return
    parts = (plan.needed_bytes, plan.weight_bytes, plan.kv_cache_bytes, plan.available_bytes)
    needed, weights, kv_cache, available = (f"{part / 2**20:,.0f} MiB" for part in parts)
    verdict = "fits" if plan.fits else "does not fit"
    print_status(
        f"{what} {verdict}: needs {needed} ({weights} weights, {kv_cache} keys and values) of {available}"
    )
    for name in plan.unloads:
        print_status(f"{name}, kept for a rollback, would be unloaded")


def _print(models: list[models_pb2.Model]) -> None:
    """A table, and below it the folders: paths are too long for a column."""
    console.print(_table(models))
    for model in models:
        for version in model.versions:
            print_status(f"{model.name} {version.version}: {version.checkpoint.folder}")


def _table(models: list[models_pb2.Model]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("model", "version", "state"):
        table.add_column(column, overflow="fold")
    for column in ("kept", "context", "running", "requests"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in models:
        names = model.name + "".join(f"\n= {alias}" for alias in model.aliases)
        for version in model.versions:
            counters = version.counters
            table.add_row(
                names,
                version.version + (" *" if version.active else ""),
                _state(version),
                _kept(version.checkpoint),
                str(version.max_model_len or ""),
                str(counters.running_requests + counters.waiting_requests),
                str(counters.finished_requests + counters.aborted_requests),
            )
            names = ""
    return table


def _state(version: models_pb2.ModelVersion) -> str:
    from secateur.v1 import models_pb2

    state = models_pb2.ModelState.Name(version.state).removeprefix("MODEL_STATE_").lower()
    if version.HasField("unload_time"):
        until = version.unload_time.ToDatetime().strftime("%H:%M:%S")
        return f"{state}, for a rollback until {until} UTC"
    return f"{state}: {version.reason}" if version.reason else state


def _kept(checkpoint: models_pb2.Checkpoint) -> str:
    dense = checkpoint.dense_parameters.non_embedding
    return f"{checkpoint.kept_parameters.non_embedding / dense:.0%}" if dense else ""


def _facts(version: models_pb2.ModelVersion) -> list[str]:
    """What a slim checkpoint says of itself, in lines."""
    checkpoint = version.checkpoint
    if not checkpoint.dense_parameters.total:
        return []
    shape = checkpoint.shape
    removed = f"{shape.removed_attentions} attentions and {shape.removed_ffns} FFNs removed"
    limits = ", ".join(f"{limit.kind} {limit.keep:g}" for limit in checkpoint.limits)
    perplexities = ", ".join(
        f"{one.corpus} {one.dense:.2f} -> {one.slim:.2f}"
        for one in checkpoint.perplexities
        if one.HasField("dense") and one.HasField("slim")
    )
    kept, dense = checkpoint.kept_parameters.non_embedding, checkpoint.dense_parameters.non_embedding
    return [
        f"version {version.version}: cut from {checkpoint.lineage.base_model} ({removed}), budget {limits}",
        f"  non-embedding parameters {kept:,} of {dense:,}; perplexity {perplexities or '?'}",
    ]
