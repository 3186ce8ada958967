"""What comes after a search: the choice among finalists, the cut, its repair, the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.corpus import Corpus
from secateur.calibrate.library import BlockLibrary
from secateur.calibrate.perplexity import mean_nll, perplexity
from secateur.model.dense import Model
from secateur.model.precision import fast_dtype
from secateur.search.architecture import Architecture, architecture_of
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


@dataclass(frozen=True)
class Order:
    """A checkpoint to make.

    Attributes:
        options: those that all was prepared with, or others that differ in what is written where.
        goal: the budget to keep.
        candidates: evaluated architectures that fit it, at least one.
    """

    options: PruneOptions
    goal: Goal
    candidates: list[Pair]


def make_checkpoints(
    prepared: Prepared, orders: Sequence[Order], choice: Choice | None, reporter: Reporter, clock: Clock
) -> list[dict[str, Any]]:
    """Choose among candidates on unseen text, cut, repair, export; return what each ``secateur.json`` says.

    All orders are repaired in one pass of the dense model. Seconds until the end of repair are the same
    in every record: they were spent once.

    Args:
        choice: the predictor that led to the candidates, for the record.

    Raises:
        OutputFailed: a result could not be written; those before it are whole.
    """
    library, split = prepared.library, prepared.split
    with clock.stage("choose"):
        winners = [choose(order, library, split.validation, reporter) for order in orders]
    with clock.stage("repair"):
        repaired = (
            [(cut(library, winner.architecture), "none") for winner in winners]
            if prepared.options.repair == "none"
            else repair(library, [winner.architecture for winner in winners], split, reporter)
        )
    return [
        _written(prepared, order, winner, slim, how, choice, Clock(dict(clock.seconds)))
        for order, winner, (slim, how) in zip(orders, winners, repaired, strict=True)
    ]


def _written(
    prepared: Prepared,
    order: Order,
    winner: Pair,
    slim: Model,
    how: str,
    choice: Choice | None,
    clock: Clock,
) -> dict[str, Any]:
    """Report on a repaired model and export it; returns its record."""
    options, source = order.options, prepared.source
    with clock.stage("report"):
        stored = stored_dtype(options, source, prepared.model)
        record = build_record(prepared, options, order.goal, slim, winner, choice, stored)
        record["repair"] = how
        record["dense"]["perplexity"], record["slim"]["perplexity"] = _validate(
            prepared.library, slim, prepared.split, prepared.reserved
        )
    record["seconds"] = clock.seconds | {"total": round(sum(clock.seconds.values()), 2)}
    with clock.stage("export"):
        export(slim, source, options.out, record, stored)
    return record


def choose(order: Order, library: BlockLibrary, windows_BT: Tensor, reporter: Reporter) -> Pair:
    """The candidate with the least KL on unseen windows; who is surely beaten stops early."""
    by_architecture = {pair.architecture: pair for pair in order.candidates}
    evaluator = PrefixEvaluator(library, windows_BT)
    title = f"judging {len(by_architecture)} finalists for {order.goal.name} on unseen text"
    reporter.stage(title, evaluator.num_blocks)
    best, done = order.candidates[0].architecture, 0
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


def repair(
    library: BlockLibrary, winners: Sequence[Architecture], split: Split, reporter: Reporter
) -> list[tuple[Model, str]]:
    """Weights of each: repaired block by block, or in sequence where unseen text says it is better."""
    dense = architecture_of(library.master)
    one_shot = {winner: cut(library, winner) for winner in dict.fromkeys(winners)}
    wanted = [winner for winner in one_shot if winner != dense]
    if wanted:
        reporter.stage("repairing in sequence", 2 * library.master.num_layers)
    with torch.inference_mode():
        slims = [one_shot[winner] for winner in wanted]
        fitted = repair_in_sequence(library, slims, split.statistics, advance=reporter.step) if slims else []
    chosen = {dense: (library.master, "none")}
    for winner, in_sequence in zip(wanted, fitted, strict=True):
        repairs = {"one-shot": one_shot[winner], "in-sequence": in_sequence}
        chosen[winner] = _better(repairs, split.validation, reporter)
    return [chosen[winner] for winner in winners]


def _better(repairs: dict[str, Model], windows_BT: Tensor, reporter: Reporter) -> tuple[Model, str]:
    """The repair that unseen text prefers, and its name."""
    scores = {name: mean_nll(model.to(fast_dtype()), windows_BT) for name, model in repairs.items()}
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
