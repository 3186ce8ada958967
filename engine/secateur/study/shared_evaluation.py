"""Evaluating candidates together with whoever else works on the study."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.model.architecture import Architecture
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture

POLL_SECONDS = 0.5


def evaluate_shared(
    study: Study,
    evaluator: Evaluator,
    candidates: Iterable[Architecture],
    to_trial: Callable[[Architecture, Measurement], EvaluatedArchitecture],
) -> Iterator[EvaluatedArchitecture]:
    """Have candidates evaluated, each by one process; what is ours is recorded, then yielded.

    Ends when all are: also when the last ones are evaluated by others. What a process that died had
    taken is evaluated by those that are left.

    Args:
        to_trial: what to record of a candidate that was evaluated here.

    Yields:
        The trial of every candidate that the study did not have, whoever evaluated it, once.
    """
    trials = study.trials
    pending = sorted(set(candidates) - trials.keys(), key=lambda item: item.path)
    mine: list[Architecture] = []
    try:
        while pending:
            mine = study.claim(pending, evaluator.at_once)
            for architecture, measurement in evaluator.evaluate(mine):
                study.add(to_trial(architecture, measurement))
                pending.remove(architecture)
                yield trials[architecture]
            done = [item for item in pending if item in trials]
            pending = [item for item in pending if item not in trials]
            yield from (trials[item] for item in done)
            if pending and not mine:
                time.sleep(POLL_SECONDS)
    finally:
        if not trials.keys() >= set(mine):
            study.release()
