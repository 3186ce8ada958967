"""A study as it lies on disk, to look at: opened without an identity, never written to.

Whatever an older or unfinished study lacks is empty here; only its trials must be there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from secateur.errors import BadInput, SecateurError
from secateur.model.architecture import Architecture, Slot, parse_slot_name
from secateur.space.budget import Budget, Goal, Limit
from secateur.space.costs.cost import Cost
from secateur.study.storage import StudyStorage, open_existing_storage, read_trial, short_message
from secateur.study.trial import EvaluatedArchitecture, best_first


@dataclass(frozen=True)
class StudyView:
    """What a study holds.

    Attributes:
        location: as the user gave it.
        dense: the architecture with nothing cut.
        trials: in the order in which they were added.
        identity: what the trials depend on.
        rounds: one document per round of the search.
        table: KL in nats per token of single cuts; empty without one.
        costs: by kind (``params``, ``total``, ``memory``, ``kv``, ...); empty in older studies.
        seconds: by stage.
        about: everything else the study says of itself (``dense``, ``model``, ``corpora``, ``machine``).
    """

    location: str
    dense: Architecture
    trials: tuple[EvaluatedArchitecture, ...]
    identity: Mapping[str, Any]
    goals: tuple[Goal, ...]
    rounds: tuple[Mapping[str, Any], ...]
    table: Mapping[Slot, Mapping[int, float]]
    costs: Mapping[str, Cost]
    seconds: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def searched(self) -> tuple[EvaluatedArchitecture, ...]:
        """Trials of the rounds, without the single cuts of the table."""
        return tuple(trial for trial in self.trials if trial.round > 0)

    @property
    def dense_nll(self) -> float | None:
        """NLL of the dense model on the search windows, nats per token, where the study says it."""
        recorded = (self.about.get("dense") or {}).get("nll")
        measured = (trial.measurement.nll for trial in self.trials if trial.architecture == self.dense)
        return recorded if recorded is not None else next(measured, None)

    def best(self, goal: Goal) -> EvaluatedArchitecture | None:
        """The trial of least KL that fits a goal; where its limits are unknown, of the rounds' trials."""
        candidates = self.trials if goal.budget.limits else self.searched
        fitting = best_first(trial for trial in candidates if goal.budget.fits(trial.architecture))
        return fitting[0] if fitting else None

    def cost(self, kind: str) -> Cost:
        """The cost model of a kind.

        Raises:
            BadInput: the study has none of that kind.
        """
        if not self.costs:
            reason = "does not say what its pairs cost (an older version made it)"
            raise BadInput("study", self.location, reason)
        if kind not in self.costs:
            raise BadInput("cost", kind, f"allowed are {', '.join(self.costs)} for this study")
        return self.costs[kind]


def view_study(location: str | os.PathLike[str]) -> StudyView:
    """Read a study.

    Args:
        location: the folder of a study, or the URL of a database.

    Raises:
        BadInput: there is no study, or nothing in it yet.
    """
    try:
        opened = open_existing_storage(location)
        return _view(opened, _load(opened))
    except BadInput as error:
        raise BadInput("study", error.given, error.allowed) from error
    except (SecateurError, MemoryError):
        raise
    except Exception as error:  # every database and every kind of damage has errors of its own
        raise BadInput(
            "study", str(location).split("@")[-1], f"cannot be read as a study: {short_message(error)}"
        ) from error


def _load(opened: StudyStorage) -> optuna.Study:
    names = optuna.get_all_study_names(opened.storage)
    if not names:
        raise BadInput("study", opened.name, "nothing is in it yet")
    if opened.study_name not in names:
        reason = f"no study named {opened.study_name} is in it; after a # give one of {', '.join(names)}"
        raise BadInput("study", opened.name, reason)
    return optuna.load_study(study_name=opened.study_name, storage=opened.storage)


def _view(opened: StudyStorage, study: optuna.Study) -> StudyView:
    stored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not stored:
        raise BadInput("study", opened.name, "no architecture was evaluated yet")
    attrs = study.user_attrs
    costs = {kind: _cost(document) for kind, document in (attrs.get("costs") or {}).items()}
    identity = attrs.get("identity") or {}
    fields = ("identity", "goals", "rounds", "table", "costs", "seconds")
    return StudyView(
        location=opened.name,
        dense=Architecture.of_widths(
            {parse_slot_name(name): widths.high for name, widths in stored[0].distributions.items()}
        ),
        trials=tuple(read_trial(opened, frozen) for frozen in stored),
        identity=identity,
        goals=_goals(attrs, identity, costs),
        rounds=tuple(attrs.get("rounds") or ()),
        table=_rows(attrs.get("table") or {}),
        costs=costs,
        seconds=attrs.get("seconds") or {},
        about={key: value for key, value in attrs.items() if key not in fields},
    )


def _goals(
    attrs: Mapping[str, Any], identity: Mapping[str, Any], costs: Mapping[str, Cost]
) -> tuple[Goal, ...]:
    if attrs.get("goals"):
        return tuple(_goal(document, costs) for document in attrs["goals"])
    return (Goal(str(identity.get("keep", "all")), Budget(())),)  # a study older than goals has one


def _goal(document: Mapping[str, Any], costs: Mapping[str, Cost]) -> Goal:
    """A goal with those of its limits whose costs the study has."""
    limits = [limit for limit in document.get("limits") or [] if limit["kind"] in costs]
    budget = Budget(tuple(Limit(limit["kind"], costs[limit["kind"]], limit["limit"]) for limit in limits))
    return Goal(document["name"], budget)


def _cost(document: Mapping[str, Any]) -> Cost:
    return Cost(document["unit"], document["fixed"], _rows(document["table"]))


def _rows(document: Mapping[str, Mapping[str, Any]]) -> dict[Slot, dict[int, Any]]:
    """A table of the study, by sub-block and width; JSON has only text for keys."""
    rows = {
        parse_slot_name(name): {int(width): value for width, value in row.items()}
        for name, row in document.items()
    }
    return {slot: rows[slot] for slot in sorted(rows)}  # "attention" comes before "ffn": order of computation
