"""A study as it lies on disk, to look at: opened without an identity, never written to.

Whatever an older or unfinished study lacks is empty here; only its pairs must be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from secateur.errors import BadInput, SecateurError
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture, Kind, Slot
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.goal import Goal
from secateur.study.storage import StudyStorage, open_existing_storage
from secateur.study.study import EvaluatedArchitecture, best_first

_PARAMETER = re.compile(r"layer_(\d+)\.(groups|channels)")


@dataclass(frozen=True)
class StudyView:
    """What a study holds.

    Attributes:
        place: as the user gave it.
        dense: the architecture with nothing cut.
        pairs: in the order in which they were added.
        identity: what the pairs depend on.
        rounds: one document per round of the search.
        table: KL in nats per token of single cuts; empty without one.
        costs: by kind (``params``, ``total``, ``memory``, ``kv``, ...); empty in older studies.
        seconds: by stage.
        about: everything else the study says of itself (``dense``, ``model``, ``corpora``, ``machine``).
    """

    place: str
    dense: Architecture
    pairs: tuple[EvaluatedArchitecture, ...]
    identity: Mapping[str, Any]
    goals: tuple[Goal, ...]
    rounds: tuple[Mapping[str, Any], ...]
    table: Mapping[Slot, Mapping[int, float]]
    costs: Mapping[str, Cost]
    seconds: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def searched(self) -> tuple[EvaluatedArchitecture, ...]:
        """Pairs of the rounds, without the single cuts of the table."""
        return tuple(pair for pair in self.pairs if pair.round > 0)

    @property
    def dense_nll(self) -> float | None:
        """NLL of the dense model on the search windows, nats per token, where the study says it."""
        known = (self.about.get("dense") or {}).get("nll")
        measured = (pair.measurement.nll for pair in self.pairs if pair.architecture == self.dense)
        return known if known is not None else next(measured, None)

    def best(self, goal: Goal) -> EvaluatedArchitecture | None:
        """The pair of least KL that fits a goal; where its limits are unknown, of the rounds' pairs."""
        candidates = self.pairs if goal.budget.limits else self.searched
        fitting = best_first(pair for pair in candidates if goal.budget.admits(pair.architecture))
        return fitting[0] if fitting else None

    def cost(self, kind: str) -> Cost:
        """The cost model of a kind.

        Raises:
            BadInput: the study has none of that kind.
        """
        if not self.costs:
            reason = "does not say what its pairs cost (an older version made it)"
            raise BadInput("study", self.place, reason)
        if kind not in self.costs:
            raise BadInput("cost", kind, f"allowed are {', '.join(self.costs)} for this study")
        return self.costs[kind]


def view_study(place: str) -> StudyView:
    """Read a study.

    Args:
        place: the folder of a study, or the URL of a database.

    Raises:
        BadInput: there is no study, or nothing in it yet.
    """
    try:
        opened = open_existing_storage(place)
        trials, attrs = _read(opened)
        return _view(opened.name, attrs, trials)
    except BadInput as error:
        raise BadInput("study", error.given, error.allowed) from error
    except (SecateurError, MemoryError):
        raise
    except Exception as error:  # every database and every kind of damage has errors of its own
        raise BadInput("study", place.split("@")[-1], f"cannot be read as a study: {_line(error)}") from error


def _read(place: StudyStorage) -> tuple[list[FrozenTrial], dict[str, Any]]:
    names = optuna.get_all_study_names(place.storage)
    if not names:
        raise BadInput("study", place.name, "nothing is in it yet")
    if place.study_name not in names:
        reason = f"no study named {place.study_name} is in it; after a # give one of {', '.join(names)}"
        raise BadInput("study", place.name, reason)
    study = optuna.load_study(study_name=place.study_name, storage=place.storage)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        raise BadInput("study", place.name, "no architecture was evaluated yet")
    return trials, study.user_attrs


def _view(place: str, attrs: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> StudyView:
    highest = {_slot(name): space.high for name, space in trials[0].distributions.items()}
    costs = {kind: _cost(document) for kind, document in (attrs.get("costs") or {}).items()}
    identity = attrs.get("identity") or {}
    known = ("identity", "goals", "rounds", "table", "costs", "seconds")
    return StudyView(
        place=place,
        dense=_of_widths(highest),
        pairs=tuple(_pair(trial) for trial in trials),
        identity=identity,
        goals=_goals(attrs, identity, costs),
        rounds=tuple(attrs.get("rounds") or ()),
        table=_rows(attrs.get("table") or {}),
        costs=costs,
        seconds=attrs.get("seconds") or {},
        about={key: value for key, value in attrs.items() if key not in known},
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
        _slot(name): {int(width): value for width, value in row.items()} for name, row in document.items()
    }
    return {slot: rows[slot] for slot in sorted(rows)}  # "attention" comes before "ffn": order of computation


def _pair(trial: FrozenTrial) -> EvaluatedArchitecture:
    attrs = trial.user_attrs
    measured = Measurement(**attrs["measurement"])
    candidate = _architecture(trial.params)
    return EvaluatedArchitecture(candidate, measured, attrs["round"], attrs["origin"], attrs.get("predicted"))


def _architecture(params: Mapping[str, int]) -> Architecture:
    return _of_widths({_slot(name): width for name, width in params.items()})


def _of_widths(widths: Mapping[Slot, int]) -> Architecture:
    layers = range(len(widths) // 2)
    return Architecture(
        tuple(widths[layer, "attention"] for layer in layers), tuple(widths[layer, "ffn"] for layer in layers)
    )


def _slot(name: str) -> Slot:
    found = _PARAMETER.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no width of a sub-block")
    kind: Kind = "attention" if found[2] == "groups" else "ffn"
    return int(found[1]), kind


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:160]
