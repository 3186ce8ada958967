"""Evaluating candidates together with whoever else works on the study."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.model.architecture import Architecture
from secateur.study.study import EvaluatedArchitecture, Study

POLL_SECONDS = 0.5


def evaluate_shared(
    study: Study,
    evaluator: Evaluator,
    wanted: Iterable[Architecture],
    pair_of: Callable[[Architecture, Measurement], EvaluatedArchitecture],
) -> Iterator[EvaluatedArchitecture]:
    """Have candidates evaluated, each by one process; what is ours is recorded, then yielded.

    Ends when all are: also when the last ones are evaluated by others. What a process that died had
    taken is evaluated by those that are left.

    Args:
        pair_of: what to record of a candidate that was evaluated here.

    Yields:
        The pair of every candidate that the study did not have, whoever evaluated it, once.
    """
    pairs = study.pairs
    left = sorted(set(wanted) - pairs.keys(), key=lambda item: item.path)
    at_once = getattr(evaluator, "at_once", 1)
    mine: list[Architecture] = []
    try:
        while left:
            mine = study.claim(left, at_once)
            for architecture, measurement in evaluator.evaluate(mine):
                study.add(pair_of(architecture, measurement))
                left.remove(architecture)
                yield pairs[architecture]
            done = [item for item in left if item in pairs]
            left = [item for item in left if item not in pairs]
            yield from (pairs[item] for item in done)
            if left and not mine:
                time.sleep(POLL_SECONDS)
    finally:
        if not pairs.keys() >= set(mine):
            study.release()
