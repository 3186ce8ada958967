"""Perplexity of a checkpoint on test corpora, the dense model it came from beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.calibrate.corpus import Corpus, cut_windows, read_corpora
from secateur.checkpoint.completeness import check_range
from secateur.checkpoint.export import RECORD
from secateur.checkpoint.source import ModelSource, check_context_length, open_source
from secateur.config.evaluate import EvaluateOptions
from secateur.errors import BadInput, BrokenCheckpoint, SecateurError
from secateur.evaluation.tasks.harness import load_tasks, run_tasks
from secateur.model.compute import choose_compute
from secateur.model.decoder import DecoderModel, architecture_of, named_tensors
from secateur.model.forward import BATCH_WINDOWS, mean_nll, perplexity
from secateur.model.processor import named_dtype, set_malloc_trim_threshold
from secateur.model.streaming import streamed
from secateur.progress import ProgressReporter, StageTimer
from secateur.space.costs.parameters import count_parameters


def evaluate(options: EvaluateOptions, reporter: ProgressReporter) -> dict[str, Any]:
    """The evaluation as a JSON document.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel: as the corpora and models say.
    """
    set_malloc_trim_threshold()
    corpus_files = read_corpora(options.corpus) if options.corpus else ()
    tasks = load_tasks(options.tasks, options.task_data) if options.tasks else ()
    source = open_source(options.model, options.drop_extra_tokens)
    check_context_length(source, options.window)
    compute = choose_compute(options.device, source.num_weights)
    dtype = named_dtype(options.dtype, auto=compute.dtype)
    corpora = tuple(files.rendered(source.tokenizer()) for files in corpus_files)
    dense_source = _dense_source(options, source, reporter)
    clock = StageTimer()

    def results_of(
        source: ModelSource, stage_suffix: str, titles: tuple[str, str]
    ) -> tuple[DecoderModel, dict[str, int], dict[str, Any]]:
        """The model, its number of windows by corpus, and what was measured."""
        with clock.stage("evaluate" + stage_suffix):
            stored = source.load_model()
            check_range(named_tensors(stored), dtype)
            fast = stored.to(dtype)
            model = streamed(fast, compute.device) if compute.streamed else fast.to(device=compute.device)
            windows = _windows(corpora, source, options)
            results = _measure(titles[0], source, model, windows, reporter)
        if tasks:
            with clock.stage("tasks" + stage_suffix):
                tokenizer = source.tokenizer()
                whole = fast.to(device=compute.whole_model_device)
                results["tasks"] = run_tasks(whole, tokenizer, tasks, options.limit, titles[1], reporter)
        return model, {name: len(part) for name, part in windows.items()}, results

    model, windows, slim = results_of(source, "", ("evaluating", "answering"))
    tokens = {corpus.name: windows[corpus.name] * options.window for corpus in corpora}
    for corpus in corpora:
        reporter.message(corpus.describe(tokens[corpus.name]))
    document = {"model": options.model, "window": options.window, "windows": windows, **slim}
    document["texts"] = {corpus.name: corpus.contents(tokens[corpus.name]) for corpus in corpora}
    if dense_source is not None:
        titles = ("evaluating the dense model", "the dense model answering")
        dense_model, _, dense = results_of(dense_source, "_dense", titles)
        document |= {"dense": dense, "slim": slim, "kept": slim["parameters"]}
        document["kept_fraction"] = count_parameters(model).fraction_of(count_parameters(dense_model))
    document["architecture"] = architecture_of(model).to_json()
    document["dtype"] = str(dtype).removeprefix("torch.")
    document["device"] = compute.device.type
    document["seconds"] = clock.seconds
    return document


def _windows(corpora: tuple[Corpus, ...], source: ModelSource, options: EvaluateOptions) -> dict[str, Tensor]:
    tokenizer = source.tokenizer()
    return {
        corpus.name: cut_windows(corpus, tokenizer, options.window, options.windows) for corpus in corpora
    }


def _measure(
    title: str,
    source: ModelSource,
    model: DecoderModel,
    windows: Mapping[str, Tensor],
    reporter: ProgressReporter,
) -> dict[str, Any]:
    batches = sum(-(-len(part) // BATCH_WINDOWS) for part in windows.values())
    if batches:
        reporter.stage(title, batches)
    nll = {name: mean_nll(model, part, lambda _: reporter.step()) for name, part in windows.items()}
    for name, value in nll.items():
        if not math.isfinite(value):
            reason = f"its loss on {name} is {value} in {model.dtype}, though its weights are finite"
            raise BrokenCheckpoint("model", source.reference, reason)
    return {
        "parameters": count_parameters(model).to_json(),
        "perplexity": {name: perplexity(value) for name, value in nll.items()},
    }


def _dense_source(
    options: EvaluateOptions, source: ModelSource, reporter: ProgressReporter
) -> ModelSource | None:
    """The dense model of a slim checkpoint: the one named, or the recorded one if it is still there."""
    if options.dense == "":
        return None
    if options.dense is not None:
        try:
            return open_source(options.dense, options.drop_extra_tokens)
        except BadInput as error:
            raise BadInput("dense", error.given, error.allowed) from error
    record_file = source.path / RECORD if source.kind == "folder" else None
    if record_file is None or not record_file.is_file():
        return None
    recorded = _recorded_model(record_file)
    if recorded is None:
        reporter.message(f"{RECORD} does not say which the dense model is; name it with `dense`")
        return None
    dropped = recorded["drop_extra_tokens"] == "True"
    for candidate_reference in (recorded["path"], recorded["reference"]):
        if not Path(candidate_reference).exists() and candidate_reference == recorded["path"]:
            continue
        try:
            dense_source = open_source(candidate_reference, dropped or options.drop_extra_tokens)
        except SecateurError:
            continue
        if dense_source.fingerprint == recorded["fingerprint"]:
            return dense_source
    reporter.message(f"the dense model ({recorded['reference']}) is not where it was; name it with `dense`")
    return None


def _recorded_model(record_file: Path) -> dict[str, str] | None:
    """Where the dense model was; None when the record cannot be read."""
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
        model = {**record["model"], "drop_extra_tokens": record.get("options", {}).get("drop_extra_tokens")}
        return {key: str(model[key]) for key in ("path", "reference", "fingerprint", "drop_extra_tokens")}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
