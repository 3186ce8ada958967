"""The main job: model and budget in, slim checkpoint out. Resumable; every stage reports as it goes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur.calibrate.calibration import Calibration, Recipe, calibrate, is_complete
from secateur.calibrate.corpus import Corpus, cut_windows, interleave, load_corpora
from secateur.calibrate.library import BlockLibrary, permute
from secateur.calibrate.perplexity import mean_nll, perplexity
from secateur.errors import BadInput, UnsupportedModel
from secateur.model.dense import Model, base_model_type, build_model
from secateur.model.memory import keep_freed_pages
from secateur.model.precision import dtype_named, fast_dtype
from secateur.model.source import Source, open_source
from secateur.search.architecture import architecture_of
from secateur.search.budget import keep_budget
from secateur.search.evaluator import PrefixEvaluator
from secateur.search.race import race
from secateur.search.search import Progress, Search
from secateur.search.space import Space
from secateur.search.study import Pair, Study
from secateur.slim.export import export
from secateur.slim.options import MIN_WINDOWS, PruneOptions
from secateur.slim.record import build_record
from secateur.slim.surgery import cut, repair_in_sequence
from secateur.storage import require_new

VALIDATION_WINDOWS = 64
FINALISTS = 4


class Reporter(Protocol):
    """Told what the job is doing; the command line draws it, a server streams it."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins; `total` steps will follow."""

    def step(self, note: str = "", count: int = 1) -> None:
        """Steps of the current stage are done."""

    def say(self, line: str) -> None:
        """Something worth a line."""


@dataclass
class Clock:
    """Seconds per stage of this run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside towards `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 2)


@dataclass(frozen=True)
class Split:
    """Disjoint windows of the corpora, [windows, window] each."""

    statistics: Tensor
    search: Tensor
    validation: Tensor


def prune(options: PruneOptions, reporter: Reporter) -> dict[str, Any]:
    """Run the job and return the record that also lies in the checkpoint as ``secateur.json``.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, InfeasibleBudget, StudyMismatch: before or
            between stages; nothing half-written.
        OutputFailed: the result could not be written.
    """
    require_new("--out", options.out)
    keep_freed_pages()
    clock = Clock()
    with clock.stage("load"):
        corpora = load_corpora(options.corpus)
        reserved = load_corpora(options.validation) if options.validation else ()
        require_apart(corpora, reserved)
        source = open_source(options.model)
        if base_model_type(source.config) != source.config.model_type:
            raise UnsupportedModel(
                "MODEL", options.model, "already cut per layer; prune the model it came from"
            )
        require_context(source, options.window)
        model = load_model(source)
        split = split_windows(source, corpora, reserved, options)
    space = Space(architecture_of(model), options.quantum)
    budget = keep_budget(model, space, options.keep, options.budget)
    identity = _identity(options, source, corpora, reserved, space)
    study = Study(options.study_folder, space, identity)
    with clock.stage("calibrate"):
        library = _library(model, split, options, reporter)
    evaluator = PrefixEvaluator(library, split.search)
    search = Search(
        space,
        budget,
        library,
        evaluator,
        study,
        evaluations=options.evaluations,
        seed=options.seed,
        sampler=options.sampler,
        predictor=options.predictor,
    )
    with clock.stage("search"):
        _run_search(search, options, reporter)
    with clock.stage("choose"):
        winner = _choose(_finalists(search.ranked()), library, split.validation, reporter)
    with clock.stage("repair"):
        slim, repair = _repair(library, winner, split, reporter)
    with clock.stage("report"):
        stored = _stored_dtype(options, source, model)
        record = build_record(
            options, source, model, slim, budget, winner, study, search, (*corpora, *reserved), stored
        )
        record["repair"] = repair
        record["dense"]["perplexity"], record["slim"]["perplexity"] = _validate(
            library, slim, split, reserved
        )
    record["seconds"] = clock.seconds | {"total": round(sum(clock.seconds.values()), 2)}
    with clock.stage("export"):
        export(slim, source, options.out, record, stored)
    shutil.rmtree(options.study_folder / "calibration", ignore_errors=True)
    return record


def require_context(source: Source, window: int) -> None:
    """Check that the model was made for windows that long.

    Raises:
        BadInput: it was not.
    """
    longest = getattr(source.config, "max_position_embeddings", None)
    if longest is not None and window > longest:
        raise BadInput("--window", window, f"the model's context is {longest} tokens")


def require_apart(corpora: tuple[Corpus, ...], reserved: tuple[Corpus, ...]) -> None:
    """Check that validation text is not text that the search sees, by passages of each in the other.

    Raises:
        BadInput: it is.
    """
    for unseen in reserved:
        for seen in corpora:
            if _shared_passages(unseen.text, seen.text) > 1 or _shared_passages(seen.text, unseen.text) > 1:
                raise BadInput("--validation", unseen.name, f"overlaps --corpus {seen.name}")


def _shared_passages(text: str, other: str) -> int:
    """How many of 8 passages of `text` are in `other`; one may be a phrase that everybody writes."""
    starts = (len(text) * eighth // 8 for eighth in range(8))
    return sum(text[start : start + 200] in other for start in starts)


def load_model(source: Source) -> Model:
    """The model of a source, in its stored dtype."""
    return build_model(source.config, source.tensors(), source.reference)


def split_windows(
    source: Source, corpora: tuple[Corpus, ...], reserved: tuple[Corpus, ...], options: PruneOptions
) -> Split:
    """Windows for statistics, for search and for validation, no window in two of them.

    Search windows are spread over the whole text, validation windows are its end (or come from
    corpora of their own).

    Raises:
        BadInput: too little text.
    """
    tokenizer = source.tokenizer()
    windows = interleave([cut_windows(corpus, tokenizer, options.window) for corpus in corpora])
    if len(windows) < MIN_WINDOWS:
        have = f"{len(windows)} windows of {options.window} tokens, at least {MIN_WINDOWS} are needed"
        raise BadInput("--corpus", options.corpus, have)
    if reserved:
        parts = [cut_windows(corpus, tokenizer, options.window, VALIDATION_WINDOWS) for corpus in reserved]
        validation = interleave(parts)[:VALIDATION_WINDOWS]
    else:
        held = min(VALIDATION_WINDOWS, len(windows) // 4)
        windows, validation = windows[:-held], windows[-held:]
    count = min(options.search_windows, max(1, len(windows) // 4))
    chosen = torch.linspace(0, len(windows) - 1, count).round().long()
    rest = torch.ones(len(windows), dtype=torch.bool)
    rest[chosen] = False
    statistics = windows[rest][: options.calibration_tokens // options.window]
    return Split(statistics, windows[chosen], validation)


def _library(model: Model, split: Split, options: PruneOptions, reporter: Reporter) -> BlockLibrary:
    folder = options.study_folder / "calibration"
    if is_complete(folder):
        reporter.say("statistics are there from an earlier run")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        tokens = split.statistics.numel()
        reporter.stage(f"calibrating on {tokens:,} tokens", 2 * model.num_layers)
        recipe = Recipe(options.criterion)
        with torch.inference_mode(options.criterion != "taylor"):
            for _ in calibrate(model.to(fast_dtype()), split.statistics, folder, recipe):
                reporter.step()
    calibration = Calibration(folder)
    return BlockLibrary(permute(model, calibration.orders), calibration.factors, fast_dtype())


def _run_search(search: Search, options: PruneOptions, reporter: Reporter) -> None:
    stage = ""
    for progress in search.run():
        if progress.stage != stage:
            stage = progress.stage
            table = f"evaluating {progress.total} single cuts"
            reporter.stage(table if stage == "table" else "searching", progress.total - progress.done + 1)
        reporter.step(_note(progress))


def _note(progress: Progress) -> str:
    if progress.best is None:
        return ""
    line = f"round {progress.pair.round}: best KL {progress.best.measurement.kl:.4f}"
    if progress.quality is None:
        return line
    return (
        f"{line}, {progress.predictor} tau {progress.quality.tau:.2f}, top-10 {progress.quality.recall:.0%}"
    )


def _choose(finalists: list[Pair], library: BlockLibrary, windows_BT: Tensor, reporter: Reporter) -> Pair:
    """The finalist with the least KL on unseen windows; who is surely beaten stops early."""
    by_architecture = {pair.architecture: pair for pair in finalists}
    evaluator = PrefixEvaluator(library, windows_BT)
    reporter.stage(f"judging {len(finalists)} finalists on unseen text", evaluator.num_blocks)
    best, done = finalists[0].architecture, 0
    for rung in race(evaluator, list(by_architecture)):
        reporter.step(f"{rung.running} left", rung.blocks - done)
        best, done = rung.best, rung.blocks
    if done < evaluator.num_blocks:
        reporter.step("the others are beaten", evaluator.num_blocks - done)
    return by_architecture[best]


def _finalists(ranked: list[Pair]) -> list[Pair]:
    """The best pairs, and the best of the first round: less fitted to the search windows."""
    seeds = [pair for pair in ranked if pair.round == 1]
    return list(dict.fromkeys([*ranked[:FINALISTS], *seeds[:1]]))


def _repair(library: BlockLibrary, winner: Pair, split: Split, reporter: Reporter) -> tuple[Model, str]:
    """The winner's weights: repaired block by block, or in sequence where unseen text says it is better."""
    one_shot = cut(library, winner.architecture)
    if winner.architecture == architecture_of(library.master):
        return one_shot, "none"
    reporter.stage("repairing in sequence", 2 * one_shot.num_layers)
    with torch.inference_mode():
        in_sequence = repair_in_sequence(library, one_shot, split.statistics, advance=reporter.step)
    scores = {
        name: mean_nll(candidate.to(fast_dtype()), split.validation)
        for name, candidate in (("one-shot", one_shot), ("in-sequence", in_sequence))
    }
    reporter.say("validation NLL: " + ", ".join(f"{name} {nll:.4f}" for name, nll in scores.items()))
    better = min(scores, key=lambda name: scores[name])
    return (in_sequence if better == "in-sequence" else one_shot), better


def _validate(
    library: BlockLibrary, slim: Model, split: Split, reserved: tuple[Corpus, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    name = ",".join(corpus.name for corpus in reserved) or "validation"
    dense_nll = mean_nll(library.model, split.validation)
    slim_nll = mean_nll(slim.to(fast_dtype()), split.validation)
    return {name: perplexity(dense_nll)}, {name: perplexity(slim_nll)}


def _identity(
    options: PruneOptions,
    source: Source,
    corpora: tuple[Corpus, ...],
    reserved: tuple[Corpus, ...],
    space: Space,
) -> dict[str, Any]:
    """Everything that a pair, or the order of proposals, depends on."""
    return {
        "model": source.fingerprint,
        "corpus": [corpus.digest for corpus in corpora],
        "validation": [corpus.digest for corpus in reserved],
        "seed": options.seed,
        "keep": options.keep,
        "budget": options.budget,
        "window": options.window,
        "calibration_tokens": options.calibration_tokens,
        "search_windows": options.search_windows,
        "criterion": options.criterion,
        "sampler": options.sampler,
        "predictor": options.predictor,
        "compute_dtype": str(fast_dtype()),
        "space": space.to_json(),
    }


def _stored_dtype(options: PruneOptions, source: Source, model: Model) -> torch.dtype:
    return dtype_named(options.dtype, auto=torch.bfloat16 if source.kind == "gguf" else model.dtype)
