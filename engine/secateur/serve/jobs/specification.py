"""From what a client asks for to checked `PruneOptions`, in the words of the request's fields."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.checkpoint.source import DEFAULT_MODEL, HUB_ID
from secateur.config.option import Declaration, declared
from secateur.config.proto_fields import field_of, given_in
from secateur.config.prune import PruneOptions
from secateur.config.serve import MODEL_NAME
from secateur.config.values import from_given
from secateur.errors import BadInput
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument, violation
from secateur.serve.guard.roots import is_below, resolve_within_roots
from secateur.v1 import prune_pb2

CHECKPOINT = "slim"  # in a job's folder; its study lies beside it
MAX_DISPLAY_NAME = 200
SPEC = "prune_job.spec"
FolderOf = Callable[[str], Path]
"""The checkpoint folder of a model of this server; raises `RpcError` if there is none."""


def options_of(
    job: prune_pb2.PruneJob, folder: Path, roots: Sequence[Path], folder_of: FolderOf
) -> PruneOptions:
    """The options of a job, models and paths resolved.

    Args:
        folder: the job's own: there go its checkpoints and its study.

    Raises:
        RpcError: a field is missing or not allowed, or there is no such model.
    """
    _check_job(job)
    spec = job.spec
    try:
        option_values = _within_roots(given_in(spec, PruneOptions), roots)
        option_values |= {"model": _model(spec, roots, folder_of), "out": folder / CHECKPOINT}
        options = from_given(PruneOptions, option_values)
    except BadInput as error:
        raise invalid_argument(violation(error.with_names(_field), f"{SPEC}.")) from error
    _check_options(job, options)
    return options


def _field(name: str) -> str | None:
    """What an option is called in the specification."""
    return "path" if name == "model" else field_of(PruneOptions, name)


def _check_job(job: prune_pb2.PruneJob) -> None:
    if len(job.display_name) > MAX_DISPLAY_NAME:
        raise invalid_argument(
            FieldViolation("prune_job.display_name", f"at most {MAX_DISPLAY_NAME} characters")
        )
    if job.spec.WhichOneof("source") is None:
        raise invalid_argument(FieldViolation(f"{SPEC}.source", "give one of model, path"))
    if job.HasField("activation"):
        _check_activation(job.activation)


def _check_activation(activation: prune_pb2.PruneActivation) -> None:
    field = "prune_job.activation"
    for name, minimum in (("max_perplexity", 1.0), ("max_perplexity_ratio", 0.0)):
        value = getattr(activation, name)
        if activation.HasField(name) and not minimum < value < math.inf:
            raise invalid_argument(
                FieldViolation(f"{field}.{name}", f"got {value:g}, a number over {minimum:g}")
            )
    if not MODEL_NAME.fullmatch(activation.model):
        allowed = "letters, digits, '.', '_' and '-', at most 64"
        raise invalid_argument(FieldViolation(f"{field}.model", f"got {activation.model[:100]!r}, {allowed}"))


def _check_options(job: prune_pb2.PruneJob, options: PruneOptions) -> None:
    if job.HasField("activation") and len(options.goals) > 1:
        raise invalid_argument(
            FieldViolation(f"{SPEC}.keep", "one fraction, as its result is to be activated")
        )
    if options.limits_latency and options.latency_table is None:
        reason = "needed for a limit on latency: what a busy server measured would be wrong"
        raise invalid_argument(FieldViolation(f"{SPEC}.latency_table", reason))
    num_cores = len(os.sched_getaffinity(0))
    if options.workers is not None and options.workers > num_cores:
        raise invalid_argument(
            FieldViolation(f"{SPEC}.workers", f"got {options.workers}: at most {num_cores}, one per core")
        )


def _model(spec: prune_pb2.PruneSpec, roots: Sequence[Path], folder_of: FolderOf) -> str:
    if spec.WhichOneof("source") == "model":
        return str(_dense(folder_of(spec.model), roots))
    if spec.path == DEFAULT_MODEL:
        return DEFAULT_MODEL
    try:
        return str(resolve_within_roots(f"{SPEC}.path", spec.path, roots))
    except RpcError as refusal:
        if not HUB_ID.fullmatch(spec.path):
            raise
        reason = f"{refusal.violations[0].description} (hub ids are not offered on a server)"
        raise replace(
            refusal, message=reason, violations=[FieldViolation(f"{SPEC}.path", reason)]
        ) from refusal


def _dense(folder: Path, roots: Sequence[Path]) -> Path | str:
    """The checkpoint that a slim one was cut from; any other checkpoint itself.

    Clients may have written what lies below the roots: such a checkpoint may name nothing outside them.
    """
    record = folder / "secateur.json"
    if not record.is_file():
        return folder
    try:
        model = json.loads(record.read_text(encoding="utf-8"))["model"]
        reference, path = model["reference"], Path(model["path"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        reason = f"was cut from another model; {record} is damaged and does not say from which"
        raise invalid_argument(FieldViolation(f"{SPEC}.model", reason)) from None
    if reference == DEFAULT_MODEL:
        return DEFAULT_MODEL
    if is_below(folder.resolve(), roots):
        return resolve_within_roots(f"{SPEC}.model", str(path), roots)
    if not path.exists():
        raise invalid_argument(
            FieldViolation(f"{SPEC}.model", f"was cut from {path}, which is no longer there")
        )
    return path


def _within_roots(option_values: dict[str, Any], roots: Sequence[Path]) -> dict[str, Any]:
    """The values with every path that a client named resolved: of all options declared to be paths."""
    resolved = dict(option_values)
    for declaration in declared(PruneOptions):
        if not declaration.option.is_path or declaration.name not in option_values:
            continue
        field = f"{SPEC}.{declaration.option.message_field}"
        value = option_values[declaration.name]
        resolved[declaration.name] = (
            [_path(f"{field}[{i}]", part, declaration, roots) for i, part in enumerate(value)]
            if declaration.many
            else _path(field, value, declaration, roots)
        )
    return resolved


def _path(field: str, text: str, declaration: Declaration, roots: Sequence[Path]) -> str:
    is_path = declaration.option.is_path
    if callable(is_path) and not is_path(text):
        return text
    return str(resolve_within_roots(field, text, roots))
