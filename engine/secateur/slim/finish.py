"""What comes after a search: the choice among finalists, the cut, its repair, the checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.corpus import Corpus
from secateur.calibrate.library import BlockLibrary
from secateur.calibrate.perplexity import mean_nll, perplexity
from secateur.model.dense import Model
from secateur.model.precision import fast_dtype
from secateur.search.architecture import architecture_of
from secateur.search.evaluator import PrefixEvaluator
from secateur.search.goal import Goal
from secateur.search.predictor import Choice
from secateur.search.race import race
from secateur.search.study import Pair
from secateur.slim.export import export
from secateur.slim.options import PruneOptions
from secateur.slim.preparation import Prepared, stored_dtype
from secateur.slim.progress import Clock, Reporter
from secateur.slim.record import build_record
from secateur.slim.surgery import cut, repair_in_sequence
from secateur.slim.windows import Split

FINALISTS = 4


def make_checkpoint(
    prepared: Prepared,
    options: PruneOptions,
    goal: Goal,
    candidates: list[Pair],
    choice: Choice | None,
    reporter: Reporter,
    clock: Clock,
) -> dict[str, Any]:
    """Choose among candidates on unseen text, cut, repair, export; return what ``secateur.json`` says.

    Args:
        options: those of `prepared`, or others that differ in what is written where.
        candidates: evaluated architectures that fit the goal, at least one.
        choice: the predictor that led to them, for the record.

    Raises:
        OutputFailed: the result could not be written.
    """
    library, split = prepared.library, prepared.split
    with clock.stage("choose"):
        winner = choose(candidates, library, split.validation, reporter)
    with clock.stage("repair"):
        slim, how = (
            (cut(library, winner.architecture), "none")
            if options.repair == "none"
            else repair(library, winner, split, reporter)
        )
    with clock.stage("report"):
        stored = stored_dtype(options, prepared.source, prepared.model)
        record = build_record(prepared, options, goal, slim, winner, choice, stored)
        record["repair"] = how
        record["dense"]["perplexity"], record["slim"]["perplexity"] = _validate(
            library, slim, split, prepared.reserved
        )
    record["seconds"] = clock.seconds | {"total": round(sum(clock.seconds.values()), 2)}
    with clock.stage("export"):
        export(slim, prepared.source, options.out, record, stored)
    return record


def choose(finalists: list[Pair], library: BlockLibrary, windows_BT: Tensor, reporter: Reporter) -> Pair:
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


def finalists(ranked: list[Pair]) -> list[Pair]:
    """The best pairs, and the best of the first round: less fitted to the search windows."""
    seeds = [pair for pair in ranked if pair.round == 1]
    return list(dict.fromkeys([*ranked[:FINALISTS], *seeds[:1]]))


def repair(library: BlockLibrary, winner: Pair, split: Split, reporter: Reporter) -> tuple[Model, str]:
    """The winner's weights: repaired block by block, or in sequence where unseen text says it is better."""
    one_shot = cut(library, winner.architecture)
    if winner.architecture == architecture_of(library.master):
        return one_shot, "none"
    reporter.stage("repairing in sequence", 2 * one_shot.num_layers)
    with torch.inference_mode():
        fitted = repair_in_sequence(library, one_shot, split.statistics, advance=reporter.step)
    repairs = {"one-shot": one_shot, "in-sequence": fitted}
    scores = {name: mean_nll(model.to(fast_dtype()), split.validation) for name, model in repairs.items()}
    reporter.say("validation NLL: " + "; ".join(f"{name} {nll:.4f}" for name, nll in scores.items()))
    better = min(scores, key=lambda name: scores[name])
    return repairs[better], better


def _validate(
    library: BlockLibrary, slim: Model, split: Split, reserved: tuple[Corpus, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    name = ",".join(corpus.name for corpus in reserved) or "validation"
    dense_nll = mean_nll(library.model, split.validation)
    slim_nll = mean_nll(slim.to(fast_dtype()), split.validation)
    return {name: perplexity(dense_nll)}, {name: perplexity(slim_nll)}
