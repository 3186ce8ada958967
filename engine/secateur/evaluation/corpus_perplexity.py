"""Perplexity of a checkpoint on test corpora, the dense model it came from beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from secateur.calibrate.corpus import Corpus, cut_windows, read_corpora
from secateur.checkpoint.completeness import check_range
from secateur.checkpoint.source import ModelSource, check_context_length, open_source
from secateur.config.evaluate import EvaluateOptions
from secateur.errors import BadInput, BrokenCheckpoint
from secateur.evaluation.dense_model import find_dense_model
from secateur.evaluation.instructions import compare, render_prompts
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
    dense_source = (
        None
        if options.dense == ""
        else find_dense_model(source, options.dense, reporter, drop_extra_tokens=options.drop_extra_tokens)
    )
    if options.instructions is not None:
        if dense_source is None:
            reason = "answers are compared with the dense model's, which is not known; name it with `dense`"
            raise BadInput("instructions", options.instructions, reason)
        render_prompts(source.tokenizer(), options.instructions)
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
        if options.instructions is not None:
            with clock.stage("instructions"):
                place = compute.whole_model_device
                dense_again, slim_again = (
                    each.load_model().to(dtype).to(device=place) for each in (dense_source, source)
                )
                document["instructions"] = compare(
                    dense_again, slim_again, source.tokenizer(), options.instructions, reporter
                )
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
