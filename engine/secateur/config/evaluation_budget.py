"""How many tokens and windows a search reads; with few evaluations, each is given a cheaper judge.

Measured in docs/search.md. What the user asks for is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

FULL_BUDGET_FROM = 100  # evaluations


@dataclass(frozen=True)
class EvaluationBudget:
    """What one search reads.

    Attributes:
        calibration_tokens: for the statistics, at most.
        repair_tokens: for the repair in sequence, at most; 131,072 instead of half as many gain 0.004 nats
            at half the model, and below 100 evaluations every one counts.
        search_windows: that every candidate is evaluated on.
        validation_windows: that finalists and repairs are chosen on, at most.
    """

    calibration_tokens: int
    repair_tokens: int
    search_windows: int
    validation_windows: int


def evaluation_budget(
    evaluations: int, calibration_tokens: int | None, search_windows: int | None
) -> EvaluationBudget:
    """What a search of so many evaluations reads; None is what nobody asked for."""
    quick = evaluations < FULL_BUDGET_FROM
    tokens = calibration_tokens or (32_768 if quick else 131_072)
    return EvaluationBudget(
        tokens,
        tokens * 3 // 4 if quick else tokens // 2,
        search_windows or (4 if quick else 16),
        32 if quick else 64,
    )
