"""How much is spent on judging candidates, for how many of them: few deserve a cheaper judge.

Measured in docs/search.md. What the user gives himself is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

THOROUGH_FROM = 100  # evaluations


@dataclass(frozen=True)
class Effort:
    """What one search spends.

    Attributes:
        calibration_tokens: for the statistics, at most.
        search_windows: that every candidate is evaluated on.
        validation_windows: that finalists and repairs are chosen on, at most.
    """

    calibration_tokens: int
    search_windows: int
    validation_windows: int

    @property
    def repair_tokens(self) -> int:
        """For the repair in sequence, at most: twice as many gain 0.004 nats at half the model."""
        return self.calibration_tokens // 2


def effort_for(evaluations: int, calibration_tokens: int | None, search_windows: int | None) -> Effort:
    """The effort for so many evaluations; None is what nobody asked for."""
    quick = evaluations < THOROUGH_FROM
    return Effort(
        calibration_tokens or (32_768 if quick else 131_072),
        search_windows or (4 if quick else 16),
        32 if quick else 64,
    )
