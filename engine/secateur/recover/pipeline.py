"""The job: a slim checkpoint and text in, a recovered checkpoint out. Resumable; the input is only read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from secateur.calibrate.corpus import Corpus
from secateur.calibrate.self_text import self_corpus
from secateur.checkpoint.configuration_secateur import SecateurConfig
from secateur.checkpoint.export import RECORD, describe, export, weight_bytes
from secateur.checkpoint.source import ModelSource, check_context_length, open_source
from secateur.checkpoint.verification import start_verification
from secateur.config.recover import RecoverOptions
from secateur.config.values import to_json
from secateur.errors import BadInput
from secateur.evaluation.dense_model import find_dense_model
from secateur.model.compute import Compute, choose_compute
from secateur.model.decoder import DecoderModel, architecture_of, dense_config
from secateur.model.forward import perplexity
from secateur.model.processor import set_malloc_trim_threshold
from secateur.progress import ProgressReporter, StageTimer
from secateur.prune.prepared_run import versions
from secateur.recover.checks import check_before_start
from secateur.recover.plan import RecoveryPlan, plan_recovery
from secateur.recover.schedule import rate_for
from secateur.recover.teacher import Judge, Teacher
from secateur.recover.text import RecoveryText, read_text
from secateur.recover.trained import start_training
from secateur.recover.training import Training
from secateur.space.costs.parameters import count_parameters
from secateur.storage import check_disk_space

# Options that do not change what a step computes: a run may go on with others of these.
FREE_OPTIONS = {"model", "out", "dense", "device"}


@dataclass(frozen=True)
class Models:
    """The two models and where they came from; slim in its stored dtype.

    Attributes:
        kept: fractions of the dense model's parameters that the slim one has.
    """

    source: ModelSource
    slim: DecoderModel
    dense_source: ModelSource
    dense: DecoderModel
    compute: Compute

    @property
    def kept(self) -> dict[str, float]:
        return count_parameters(self.slim).fraction_of(count_parameters(self.dense))


def recover(
    options: RecoverOptions, reporter: ProgressReporter, left_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run the job; return the record that also lies in the checkpoint as ``secateur.json``.

    Args:
        left_out: phrases whose paragraphs are left out of what the dense model writes: a question that is to
            be asked afterwards.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel: before any training.
        SecateurError: the loss is no number any more.
        OutputFailed: the state or the result could not be written.
    """
    check_before_start(options)
    set_malloc_trim_threshold()
    clock = StageTimer()
    with clock.stage("load"):
        models = open_models(options, reporter)
        plan = plan_recovery(models.slim, models.dense, options, models.compute)
        plan.check(options)
        check_disk_space(options.out.absolute().parent, plan.disk)
        reporter.message(f"computing on {models.compute}; {plan.describe()}")
    with clock.stage("text"):
        text = read_recovery_text(options, models, reporter, left_out)
    training = training_of(options, models, text, plan)
    start_verification()
    with clock.stage("train"):
        model = training.run(reporter)
    record = _record(options, models, text, training, model)
    record["seconds"] = clock.seconds | {"total": round(sum(clock.seconds.values()), 2)}
    reporter.stage(f"exporting {options.out} and opening it with transformers", 1)
    on_host = replace(model.to(device=torch.device("cpu")), config=dense_config(model.config))
    verification = export(on_host, models.source, options.out, record, training.stored)
    reporter.step()
    shutil.rmtree(options.state_folder, ignore_errors=True)
    return record | {"verified": verification.to_json()}


def open_models(options: RecoverOptions, reporter: ProgressReporter) -> Models:
    """Open both models and check that they belong together.

    Raises:
        BadInput: there is no dense model, it is no relative of the slim one, or the device has no room.
    """
    source = open_source(options.model)
    check_context_length(source, options.window)
    dense_source = find_dense_model(source, options.dense, reporter)
    if dense_source is None:
        raise BadInput("dense", "nothing", "name the model that SLIM was cut from")
    slim, dense = source.load_model(), dense_source.load_model()
    if slim.head_VH.shape != dense.head_VH.shape:
        sizes = [f"{len(model.head_VH)} tokens and width {model.hidden_size}" for model in (dense, slim)]
        raise BadInput(
            "dense", dense_source.reference, f"it has {sizes[0]}, SLIM {sizes[1]}: not its dense model"
        )
    compute = choose_compute(options.device, source.num_weights + dense_source.num_weights)
    if compute.streamed:
        raise BadInput("device", str(compute.device), "it has no room for both models; give `device` cpu")
    return Models(source, slim, dense_source, dense, compute)


def read_recovery_text(
    options: RecoverOptions, models: Models, reporter: ProgressReporter, left_out: tuple[str, ...] = ()
) -> RecoveryText:
    def write_self() -> Corpus:
        written = self_corpus(
            models.dense_source,
            models.dense,
            models.compute,
            options.state_folder,
            tokens=options.self_tokens,
            length=options.window,
            seed=options.seed,
            reporter=reporter,
            chats=True,
        )
        paragraphs = written.text.split("\n\n")
        kept = [each for each in paragraphs if not any(phrase in each for phrase in left_out)]
        return replace(written, text="\n\n".join(kept))

    return read_text(options, models.source.tokenizer(), write_self, reporter.message)


def training_of(options: RecoverOptions, models: Models, text: RecoveryText, plan: RecoveryPlan) -> Training:
    compute, stored = models.compute, models.slim.dtype
    fast = models.dense.to(compute.dtype, compute.device)
    head_VH = models.slim.head_VH
    judge = Judge(fast, head_VH, text.validation_WT)
    identity = {name: value for name, value in to_json(options).items() if name not in FREE_OPTIONS}
    identity |= {"SLIM": models.source.fingerprint, "texts": text.digests, "dtype": str(compute.dtype)}
    return Training(
        options=options,
        trained=start_training(
            models.slim.to(device=compute.device), options.train, options.rank, options.seed
        ),
        teacher=Teacher(fast, head_VH, text.training_WT),
        judge=judge,
        text=text,
        rate=rate_for(options, models.kept["non_embedding"]),
        piece=plan.piece,
        stored=stored,
        compute_dtype=compute.dtype,
        identity=identity,
    )


def _record(
    options: RecoverOptions, models: Models, text: RecoveryText, training: Training, model: DecoderModel
) -> dict[str, Any]:
    """What the slim checkpoint's own record says, brought up to date, and how it was recovered."""
    dense_count, slim_count = count_parameters(models.dense), count_parameters(model)
    config, _ = describe(replace(model, config=dense_config(model.config)))
    progress = training.progress
    first, best = progress.validated[0], progress.best
    sides = {
        "dense": (dense_count, models.dense, training.judge.dense_nll),
        "slim": (slim_count, model, best.nll),
    }
    return _old_record(models.source) | {
        "model": {
            "reference": models.dense_source.reference,
            "path": str(models.dense_source.path.absolute()),
            "fingerprint": models.dense_source.fingerprint,
        },
        "out": str(options.out),
        "parameters": dense_count.to_json(),
        "kept": slim_count.to_json(),
        "kept_fraction": models.kept,
        "architecture": architecture_of(model).to_json(),
        "layout": "per-layer" if config.model_type == SecateurConfig.model_type else "stock",
        **{
            side: {
                "parameters": count.to_json(),
                "memory_bytes": weight_bytes(each, training.stored),
                "perplexity": {text.validation: perplexity(nll)},
            }
            for side, (count, each, nll) in sides.items()
        },
        "recovery": {
            "from": {"path": str(models.source.path.absolute()), "fingerprint": models.source.fingerprint},
            "train": options.train,
            "numbers": training.trained.count,
            "learning_rate": training.rate,
            "steps": progress.step,
            "tokens": progress.step * options.batch * options.window,
            "seconds": round(progress.seconds, 1),
            "best_step": best.step,
            "kl": best.kl,
            "input": {"kl": first.kl, "perplexity": {text.validation: perplexity(first.nll)}},
            "validated": [vars(each) for each in progress.validated],
            "losses": _thinned(progress.losses),
            "corpora": list(text.corpora),
            "texts": text.contents,
            "options": to_json(options),
        },
        "seed": options.seed,
        "window": options.window,
        "dtype": str(training.stored).removeprefix("torch."),
        "versions": versions(),
    }


def _old_record(source: ModelSource) -> dict[str, Any]:
    try:
        return dict(json.loads((source.path / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, TypeError):
        return {}


def _thinned(losses: list[float], count: int = 100) -> list[float]:
    """At most so many means of neighbours."""
    size = -(-len(losses) // count) if losses else 1
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 5) for part in parts]


def plan_for(options: RecoverOptions, reporter: ProgressReporter) -> Mapping[str, Any]:
    """What the job will take; trains nothing and writes nothing.

    Raises:
        BadInput: it cannot fit; and what opening the models raises.
    """
    models = open_models(options, reporter)
    plan = plan_recovery(models.slim, models.dense, options, models.compute)
    plan.check(options)
    return plan.to_json(options, models.compute)
