"""The study: every trial of one search, as trials of an Optuna study in a folder or a database.

A folder holds an append-only journal, which survives a kill at any instant: at worst its last line is torn,
and is dropped. Optuna's dashboard and plots read both as they are. A study belongs to one model,
corpus, space and seed; opening it for another is refused. Several processes may work on one: see
`claims` and `shared_evaluation`.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from secateur.errors import StudyMismatch
from secateur.model.architecture import Architecture, slot_name
from secateur.space.budget import Budget
from secateur.space.space import Space
from secateur.study.claims import Claims, Heartbeat
from secateur.study.storage import errors_as_bad_input, open_storage, read_trial
from secateur.study.trial import EvaluatedArchitecture, best_first


class Study:
    """Trials by architecture, kept on disk as they come.

    Args:
        location: a folder, made when missing, or the URL of a database (`storage.open_storage`).
        identity: what the trials depend on; compared with what the study says.

    Attributes:
        trials: those known here; `refresh` and `claim` bring what other processes added.

    Raises:
        StudyMismatch: there lies a study of something else; names the difference.
        BadInput, BackendUnavailable, OutputFailed: the storage cannot be opened.
    """

    def __init__(self, location: str | os.PathLike[str], space: Space, identity: Mapping[str, Any]) -> None:
        self._opened = opened = open_storage(location)
        self._exclusive = opened.exclusive
        self._space = space
        self._distributions = {
            slot_name(layer, kind): IntDistribution(0, space.dense.width(layer, kind))
            for layer, kind in space.slots
        }
        with errors_as_bad_input(opened.name), self._exclusive():
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
        self.trials: dict[Architecture, EvaluatedArchitecture] = {}
        self.refresh()

    def add(self, trial: EvaluatedArchitecture) -> None:
        """Record a trial, on disk before this returns; nothing happens if it is there already."""
        if self._claims.expired:  # somebody may have taken over what was ours, and be done with it
            self.refresh()
        if trial.architecture not in self.trials:
            self._study.add_trial(trial.to_optuna(self._distributions))
            self.trials[trial.architecture] = trial

    def refresh(self) -> None:
        """Bring in the trials that others added.

        Raises:
            BadInput: the storage is away or damaged.
        """
        with errors_as_bad_input(self._opened.name):
            stored = self._study.get_trials(deepcopy=False)
        for frozen in stored[self._trials_read :]:
            if frozen.state == TrialState.COMPLETE:
                trial = read_trial(self._opened, frozen)
                self.trials.setdefault(trial.architecture, trial)
        self._trials_read = len(stored)

    def ranked(self, budget: Budget) -> list[EvaluatedArchitecture]:
        """Trials of the space that fit a budget, single cuts included, best first."""
        contained = (trial for trial in self.trials.values() if self._space.contains(trial.architecture))
        return best_first(trial for trial in contained if budget.fits(trial.architecture))

    def claim(self, pending: Sequence[Architecture], at_once: int = 1) -> list[Architecture]:
        """Take, instead of what we had, those of `pending` to evaluate next; others keep their hands off.

        Args:
            pending: in the order in which they share prefixes.
            at_once: how many this process evaluates at a time.

        Returns:
            None of them when all are evaluated or taken by others.
        """
        with self._exclusive():
            self.refresh()
            mine = self._claims.acquire([item for item in pending if item not in self.trials], at_once)
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(weakref.WeakMethod(self._send_heartbeat))
            self._heartbeat.start()
        return mine

    def release(self) -> None:
        """Give back what was claimed."""
        with self._exclusive():
            self._claims.release()

    def close(self) -> bool:
        """Leave the study to others; returns whether there are any at work on it."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        with self._exclusive():
            return self._claims.deregister() > 0

    def set_attr(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study, such as what a report needs; nothing is written that is there."""
        if self.get_attr(key) != value:
            self._study.set_user_attr(key, value)

    def get_attr(self, key: str) -> Any:
        """The value kept, by whatever process, not to be changed; None where there is none."""
        return self._study.user_attrs.get(key)

    def _send_heartbeat(self) -> None:
        with self._exclusive():
            self._claims.heartbeat()

    def _check(self, location: str, identity: dict[str, Any]) -> None:
        stored_identity = self.get_attr("identity")
        if stored_identity is None:
            self.set_attr("identity", identity)
            return
        for field in sorted(stored_identity.keys() | identity.keys()):
            if stored_identity.get(field) != identity.get(field):
                before, now = _short(stored_identity.get(field)), _short(identity.get(field))
                reason = f"made with another {field} ({before}, now {now}); give another place or remove it"
                raise StudyMismatch("study", location, reason)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
