"""The study: every pair of one search, as trials of an Optuna study in a folder or a database.

A folder holds an append-only journal, which survives a kill at any instant: at worst its last line is torn,
and is dropped. Optuna's dashboard and plots read both as they are. A study belongs to one model,
corpus, space and seed; opening it for another is refused. Several processes may work on one: see
`claims` and `cooperation`.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from secateur.errors import StudyMismatch
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import KINDS, Architecture, slot_name
from secateur.space.space import Space
from secateur.study.claims import Claims, Heartbeat
from secateur.study.storage import JOURNAL, open_storage

__all__ = ["JOURNAL", "EvaluatedArchitecture", "Study"]


@dataclass(frozen=True)
class EvaluatedArchitecture:
    """An evaluated architecture.

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


def best_first(pairs: Iterable[EvaluatedArchitecture]) -> list[EvaluatedArchitecture]:
    """By KL, ties by architecture."""
    return sorted(pairs, key=lambda pair: (pair.measurement.kl, pair.architecture))


class Study:
    """Pairs by architecture, kept on disk as they come.

    Args:
        place: a folder, made when missing, or the URL of a database (`place.open_place`).
        identity: what the pairs depend on; compared with what the study says.

    Attributes:
        pairs: those known here; `refresh` and `claim` bring what other processes added.

    Raises:
        StudyMismatch: there lies a study of something else; names the difference.
        BadInput, BackendUnavailable, OutputFailed: the place cannot be opened.
    """

    def __init__(self, place: str | os.PathLike[str], space: Space, identity: Mapping[str, Any]) -> None:
        opened = open_storage(place)
        self._exclusive = opened.exclusive
        self._distributions = {
            slot_name(layer, kind): IntDistribution(0, space.dense.width(layer, kind))
            for layer, kind in space.slots
        }
        with self._exclusive():
            self._study = optuna.create_study(
                storage=opened.storage,
                study_name=opened.study_name,
                direction="minimize",
                load_if_exists=True,
            )
            self._check(opened.name, json.loads(json.dumps(dict(identity))))
        self._claims = Claims(self)
        self._heartbeat: Heartbeat | None = None
        self._trials_read = 0
        self.pairs: dict[Architecture, EvaluatedArchitecture] = {}
        self.refresh()

    def add(self, pair: EvaluatedArchitecture) -> None:
        """Record a pair, on disk before this returns; nothing happens if it is there already."""
        if self._claims.silent:  # somebody may have taken over what was ours, and be done with it
            self.refresh()
        if pair.architecture not in self.pairs:
            self._study.add_trial(self._trial_of(pair))
            self.pairs[pair.architecture] = pair

    def refresh(self) -> None:
        """Bring in the pairs that others added."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials[self._trials_read :]:
            if trial.state == TrialState.COMPLETE:
                pair = _pair_of(trial)
                self.pairs.setdefault(pair.architecture, pair)
        self._trials_read = len(trials)

    def claim(self, wanted: Sequence[Architecture], at_once: int = 1) -> list[Architecture]:
        """Take, instead of what we had, those of `wanted` to evaluate next; others keep their hands off.

        Args:
            wanted: in the order in which they share prefixes.
            at_once: how many this process evaluates at a time.

        Returns:
            None of them when all are evaluated or taken by others.
        """
        with self._exclusive():
            self.refresh()
            mine = self._claims.take([item for item in wanted if item not in self.pairs], at_once)
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(weakref.WeakMethod(self._beat))
            self._heartbeat.start()
        return mine

    def release(self) -> None:
        """Give back what was claimed."""
        with self._exclusive():
            self._claims.drop()

    def close(self) -> bool:
        """Leave the study to others; returns whether there are any at work on it."""
        if self._heartbeat is not None:
            self._heartbeat.end()
            self._heartbeat = None
        with self._exclusive():
            return self._claims.leave() > 0

    def set_attr(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study, such as what a report needs; nothing is written that is there."""
        if self.get_attr(key) != value:
            self._study.set_user_attr(key, value)

    def get_attr(self, key: str) -> Any:
        """What was noted, by whatever process, not to be changed; None where nothing was."""
        return self._study.user_attrs.get(key)

    def _beat(self) -> None:
        with self._exclusive():
            self._claims.beat()

    def _trial_of(self, pair: EvaluatedArchitecture) -> FrozenTrial:
        candidate = pair.architecture
        params = {
            slot_name(layer, kind): candidate.width(layer, kind)
            for layer in range(candidate.num_layers)
            for kind in KINDS
        }
        attributes = {
            "measurement": asdict(pair.measurement),
            "round": pair.round,
            "origin": pair.origin,
            **({} if pair.predicted is None else {"predicted": pair.predicted}),
        }
        return create_trial(
            params=params,
            distributions=self._distributions,
            value=pair.measurement.kl,
            user_attrs=attributes,
        )

    def _check(self, place: str, identity: dict[str, Any]) -> None:
        known = self.get_attr("identity")
        if known is None:
            self.set_attr("identity", identity)
            return
        for field in sorted(known.keys() | identity.keys()):
            if known.get(field) != identity.get(field):
                before, now = _short(known.get(field)), _short(identity.get(field))
                reason = f"made with another {field} ({before}, now {now}); give another place or remove it"
                raise StudyMismatch("study", place, reason)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _pair_of(trial: FrozenTrial) -> EvaluatedArchitecture:
    layers = len(trial.params) // 2
    candidate = Architecture(
        tuple(trial.params[slot_name(layer, "attention")] for layer in range(layers)),
        tuple(trial.params[slot_name(layer, "ffn")] for layer in range(layers)),
    )
    attrs = trial.user_attrs
    measured = Measurement(**attrs["measurement"])
    return EvaluatedArchitecture(candidate, measured, attrs["round"], attrs["origin"], attrs.get("predicted"))
