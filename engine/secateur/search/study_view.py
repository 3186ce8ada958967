"""A study as it lies on disk, to look at: opened without an identity, never written to.

Whatever an older or unfinished study lacks is empty here; only its pairs must be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from secateur.errors import BadInput
from secateur.model.dense import Kind
from secateur.search.architecture import Architecture
from secateur.search.budget import Budget, Cost
from secateur.search.measurement import Measurement
from secateur.search.samplers.sampler import best_first
from secateur.search.space import Slot
from secateur.search.study import JOURNAL, Pair

_NAME = "secateur"
_PARAMETER = re.compile(r"layer_(\d+)\.(groups|channels)")


@dataclass(frozen=True)
class Goal:
    """One of the budgets that a study was searched for.

    Attributes:
        name: as in the study, and in its rounds.
        budgets: all of which must be met; none where the study does not say.
        keep: fraction of the dense model, by kind of budget, where it was given so.
    """

    name: str
    budgets: tuple[Budget, ...] = ()
    keep: Mapping[str, float] = field(default_factory=dict)

    def admits(self, candidate: Architecture) -> bool:
        """Whether the candidate fits every budget."""
        return all(budget.admits(candidate) for budget in self.budgets)


@dataclass(frozen=True)
class StudyView:
    """What a study holds.

    Attributes:
        place: as the user gave it.
        dense: the architecture with nothing cut.
        pairs: in the order in which they were added.
        predicted: log KL that was predicted when the architecture was proposed.
        identity: what the pairs depend on.
        rounds: one document per round of the search.
        table: KL in nats per token of single cuts; empty without one.
        costs: by kind (``params``, ``total``, ``memory``, ``kv``, ...); empty in older studies.
        seconds: by stage.
        about: everything else the study says of itself (``dense``, ``model``, ``corpora``, ``machine``).
    """

    place: str
    dense: Architecture
    pairs: tuple[Pair, ...]
    predicted: Mapping[Architecture, float]
    identity: Mapping[str, Any]
    goals: tuple[Goal, ...]
    rounds: tuple[Mapping[str, Any], ...]
    table: Mapping[Slot, Mapping[int, float]]
    costs: Mapping[str, Cost]
    seconds: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def searched(self) -> tuple[Pair, ...]:
        """Pairs of the rounds, without the single cuts of the table."""
        return tuple(pair for pair in self.pairs if pair.round > 0)

    @property
    def dense_nll(self) -> float | None:
        """NLL of the dense model on the search windows, nats per token, where the study says it."""
        known = (self.about.get("dense") or {}).get("nll")
        measured = (pair.measurement.nll for pair in self.pairs if pair.architecture == self.dense)
        return known if known is not None else next(measured, None)

    def best(self, goal: Goal) -> Pair | None:
        """The pair of least KL that fits a goal; where its budgets are unknown, of the rounds' pairs."""
        candidates = self.pairs if goal.budgets else self.searched
        fitting = best_first(pair for pair in candidates if goal.admits(pair.architecture))
        return fitting[0] if fitting else None

    def cost(self, kind: str) -> Cost:
        """The cost model of a kind.

        Raises:
            BadInput: the study has none of that kind.
        """
        if not self.costs:
            reason = (
                "has no costs of its pairs (made by an older version); start its search again to add them"
            )
            raise BadInput("STUDY", self.place, reason)
        if kind not in self.costs:
            raise BadInput("--cost", kind, f"allowed are {', '.join(self.costs)} for this study")
        return self.costs[kind]


def view_study(place: str) -> StudyView:
    """Read a study.

    Args:
        place: the folder of a study, or the URL of a database.

    Raises:
        BadInput: there is no study, or nothing in it yet.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = _existing_storage(place)
        study = optuna.load_study(study_name=_name_of_study(place, storage), storage=storage)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return _view(place, study.user_attrs, trials)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # every database and every kind of damage has errors of its own
        raise BadInput("STUDY", place, f"cannot be read as a study: {_line(error)}") from error


def _existing_storage(place: str) -> BaseStorage:
    """The storage of a study that is there; nothing is made where there is none."""
    if "://" in place:
        return _existing_database(place)
    folder = Path(place)
    if not folder.exists():
        raise BadInput("STUDY", place, "there is no such folder")
    journal = folder / JOURNAL
    if not journal.is_file():
        raise BadInput("STUDY", place, f"no study lies there (no {JOURNAL}); prune makes one as OUT.study")
    return JournalStorage(JournalFileBackend(str(journal)))  # reading takes no lock


def _existing_database(url: str) -> RDBStorage:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).is_file():
        raise BadInput("STUDY", url, "there is no such database")  # opening would make an empty one
    return RDBStorage(url, skip_table_creation=True)


def _name_of_study(place: str, storage: BaseStorage) -> str:
    names = optuna.get_all_study_names(storage)
    if _NAME in names or len(names) == 1:
        return _NAME if _NAME in names else names[0]
    if not names:
        raise BadInput("STUDY", place, "nothing is in it yet")
    raise BadInput("STUDY", place, f"several studies are in it, none named {_NAME}: {', '.join(names)}")


def _view(place: str, attrs: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> StudyView:
    if not trials:
        raise BadInput("STUDY", place, "no architecture was evaluated yet")
    highest = {_slot(name): space.high for name, space in trials[0].distributions.items()}
    costs = {kind: _cost(document) for kind, document in (attrs.get("costs") or {}).items()}
    predicted = {_architecture(trial.params): trial.user_attrs.get("predicted") for trial in trials}
    identity = attrs.get("identity") or {}
    known = ("identity", "goals", "rounds", "table", "costs", "seconds")
    return StudyView(
        place=place,
        dense=_of_widths(highest),
        pairs=tuple(_pair(trial) for trial in trials),
        predicted={item: value for item, value in predicted.items() if value is not None},
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
    return (Goal(str(identity.get("keep", "all"))),)  # a study older than goals has one


def _goal(document: Mapping[str, Any], costs: Mapping[str, Cost]) -> Goal:
    limits = document.get("limits") or []
    return Goal(
        document["name"],
        tuple(
            Budget(limit["kind"], costs[limit["kind"]], limit["limit"])
            for limit in limits
            if limit["kind"] in costs
        ),
        {limit["kind"]: limit["keep"] for limit in limits if limit.get("keep") is not None},
    )


def _cost(document: Mapping[str, Any]) -> Cost:
    return Cost(document["unit"], document["fixed"], _rows(document["table"]))


def _rows(document: Mapping[str, Mapping[str, Any]]) -> dict[Slot, dict[int, Any]]:
    """A table of the study, by sub-block and width; JSON has only text for keys."""
    rows = {
        _slot(name): {int(width): value for width, value in row.items()} for name, row in document.items()
    }
    return {slot: rows[slot] for slot in sorted(rows)}  # "attention" comes before "ffn": order of computation


def _pair(trial: FrozenTrial) -> Pair:
    attrs = trial.user_attrs
    return Pair(
        _architecture(trial.params), Measurement(**attrs["measurement"]), attrs["round"], attrs["origin"]
    )


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
