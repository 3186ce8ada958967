"""How far recovery is within its budget, and the learning rate there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secateur.config.recover import FULL, LAST, LORA, SCALES, RecoverOptions

WARM_UP, FIRST = 0.05, 0.1  # share of the budget, and of the learning rate that it begins with
DECAY = 0.2  # share of the budget in which a constant rate falls
# The highest rate where half of the model or more was cut. Of the size that is published for distilling
# pruned models (full) and for adapters; not tuned.
RATES = {SCALES: 5e-3, LAST: 3e-4, LORA: 1e-3, FULL: 2e-4}
HALF = 0.5


@dataclass(frozen=True)
class Budget:
    """How long to train: one of the three.

    Attributes:
        seconds: of training and validation.
        steps: of the optimiser.
    """

    seconds: float | None
    steps: int | None

    @classmethod
    def of(cls, options: RecoverOptions) -> Budget:
        """Tokens become as many whole steps as they make, at least one."""
        if options.tokens is not None:
            return cls(None, max(1, options.tokens // (options.batch * options.window)))
        return cls(None if options.minutes is None else 60 * options.minutes, options.steps)

    @property
    def units(self) -> int:
        """Steps or seconds, for a progress report."""
        return self.steps if self.steps is not None else math.ceil(self.seconds or 0)

    def spent(self, steps: int, seconds: float, reserved: float) -> float:
        """The share that is spent: 1 and more is all.

        Args:
            reserved: seconds that what follows the last step will take.
        """
        if self.steps is not None:
            return steps / self.steps
        assert self.seconds is not None
        return seconds / max(self.seconds - reserved, 1e-3)


def rate_for(options: RecoverOptions, kept: float) -> float:
    """The highest learning rate.

    Args:
        kept: fraction of the non-embedding parameters that the slim model has. The less was cut, the lower
            the rate: there is less to win and as much to lose.
    """
    if options.learning_rate is not None:
        return options.learning_rate
    return RATES[options.train] * min(1.0, max(0.25, (1 - kept) / HALF))


def factor(schedule: str, spent: float) -> float:
    """Of the highest learning rate, at a share of the budget."""
    if spent < WARM_UP:
        return FIRST + (1 - FIRST) * spent / WARM_UP
    if schedule == "constant":
        return min(1.0, max(0.0, (1 - spent) / DECAY))
    done = min(1.0, (spent - WARM_UP) / (1 - WARM_UP))
    return (1 + math.cos(math.pi * done)) / 2
