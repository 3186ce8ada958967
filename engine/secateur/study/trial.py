"""Evaluated architectures, which a study keeps as trials of Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial

from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture, parse_slot_name


@dataclass(frozen=True)
class EvaluatedArchitecture:
    """An architecture and what was measured of it.

    Attributes:
        round: 0 for the single cuts of the table, then the rounds of the search.
        origin: who proposed it.
        predicted: log KL predicted when it was proposed, where a predictor chose it.
    """

    architecture: Architecture
    measurement: Measurement
    round: int
    origin: str
    predicted: float | None = None

    def to_optuna(self, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        """The trial; its parameters are the widths, by the names that `distributions` has."""
        attributes = {
            "measurement": asdict(self.measurement),
            "round": self.round,
            "origin": self.origin,
            **({} if self.predicted is None else {"predicted": self.predicted}),
        }
        return create_trial(
            params={name: self.architecture.width(*parse_slot_name(name)) for name in distributions},
            distributions=dict(distributions),
            value=self.measurement.kl,
            user_attrs=attributes,
        )

    @classmethod
    def from_optuna(cls, frozen: FrozenTrial) -> EvaluatedArchitecture:
        """The inverse of `to_optuna`.

        Raises:
            ValueError: it is not what `to_optuna` makes; says what is amiss.
        """
        try:
            widths = {parse_slot_name(name): width for name, width in frozen.params.items()}
            attrs = frozen.user_attrs
            measurement = Measurement(**attrs["measurement"])
            trial = cls(
                Architecture.of_widths(widths),
                measurement,
                attrs["round"],
                attrs["origin"],
                attrs.get("predicted"),
            )
            numbers = [*asdict(measurement).values(), trial.round, trial.predicted or 0.0]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if widths.keys() != {parse_slot_name(name) for name in frozen.distributions}:
            raise ValueError("it lacks widths")
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("a measurement is no number")
        if measurement.kl != frozen.value:
            raise ValueError(f"its KL is {measurement.kl} and {frozen.value}")
        return trial


def best_first(trials: Iterable[EvaluatedArchitecture]) -> list[EvaluatedArchitecture]:
    """By KL, ties by architecture."""
    return sorted(trials, key=lambda trial: (trial.measurement.kl, trial.architecture))
