"""The study: every pair of one search, in an Optuna journal on disk.

An append-only file survives a kill at any instant: at worst its last line is torn, and is dropped
on opening. Optuna's dashboard and plots read it as it is. A study belongs to one model, corpus,
space and seed; opening it for another is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from secateur.errors import StudyMismatch
from secateur.model.dense import KINDS
from secateur.search.architecture import Architecture
from secateur.search.measurement import Measurement
from secateur.search.space import Space, slot_name
from secateur.storage import reported

JOURNAL = "study.journal"
_NAME = "secateur"


@dataclass(frozen=True)
class Pair:
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


class Study:
    """Pairs by architecture, kept on disk as they come.

    Args:
        folder: where the journal lies; made when missing.
        identity: what the pairs depend on; compared with what the journal says.

    Raises:
        StudyMismatch: the folder holds a study of something else; names the difference.
        OutputFailed: there can be no such folder.
    """

    def __init__(self, folder: Path, space: Space, identity: Mapping[str, Any]) -> None:
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _KernelLock(folder / f"{JOURNAL}.lock")
        journal = folder / JOURNAL
        _drop_torn_line(journal, lock)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(journal), lock))
        self._study = optuna.create_study(
            storage=storage, study_name=_NAME, direction="minimize", load_if_exists=True
        )
        self._distributions = {
            slot_name(layer, kind): IntDistribution(0, space.dense.width(layer, kind))
            for layer, kind in space.slots
        }
        self._check(folder, json.loads(json.dumps(dict(identity))))
        self.pairs: dict[Architecture, Pair] = {}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            pair = _pair_of(trial)
            self.pairs[pair.architecture] = pair

    def add(self, pair: Pair) -> None:
        """Record a pair, on disk before this returns."""
        candidate = pair.architecture
        params = {
            slot_name(layer, kind): candidate.width(layer, kind)
            for layer in range(candidate.num_layers)
            for kind in KINDS
        }
        self._study.add_trial(
            create_trial(
                params=params,
                distributions=self._distributions,
                value=pair.measurement.kl,
                user_attrs={
                    "measurement": asdict(pair.measurement),
                    "round": pair.round,
                    "origin": pair.origin,
                    **({} if pair.predicted is None else {"predicted": pair.predicted}),
                },
            )
        )
        self.pairs[candidate] = pair

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study, such as what a report needs; nothing is written that is there."""
        if self.noted(key) != value:
            self._study.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        """What was noted; None where nothing was."""
        return self._study.user_attrs.get(key)

    def _check(self, folder: Path, identity: dict[str, Any]) -> None:
        known = self._study.user_attrs.get("identity")
        if known is None:
            self._study.set_user_attr("identity", identity)
            return
        for field in sorted(known.keys() | identity.keys()):
            if known.get(field) != identity.get(field):
                before, now = _short(known.get(field)), _short(identity.get(field))
                reason = f"made with another {field} ({before}, now {now}); give another folder or remove it"
                raise StudyMismatch("--study", folder, reason)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _pair_of(trial: FrozenTrial) -> Pair:
    layers = len(trial.params) // 2
    candidate = Architecture(
        tuple(trial.params[slot_name(layer, "attention")] for layer in range(layers)),
        tuple(trial.params[slot_name(layer, "ffn")] for layer in range(layers)),
    )
    attrs = trial.user_attrs
    measured = Measurement(**attrs["measurement"])
    return Pair(candidate, measured, attrs["round"], attrs["origin"], attrs.get("predicted"))


class _KernelLock:
    """A lock that goes when its process does. Optuna's own outlives a kill and stalls the next start."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        weakref.finalize(self, os.close, self._descriptor)

    def acquire(self) -> bool:
        """Wait for the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _drop_torn_line(journal: Path, lock: _KernelLock) -> None:
    """Cut the journal after its last complete line; what follows was being written when the process died."""
    if not journal.is_file():
        return
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                os.fsync(file.fileno())
    finally:
        lock.release()
