"""Processes that share a study: together they find what one finds, each candidate is evaluated by one.

Proven in a folder and in a database: two processes at once; one of them killed in mid-search, whose
candidates the other takes over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secateur.model.architecture import Architecture
from secateur.space.space import Space
from secateur.study.study import Study

SPACE = Space(Architecture((3, 3), (128, 128)), 32)
ROUNDS = 3
SCRIPT = """
import sys, time
from secateur.model.architecture import Architecture
from secateur.study.shared_evaluation import evaluate_shared
from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.space.space import Space
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture

class Slow(Evaluator):
    def evaluate(self, candidates):
        for candidate in candidates:
            time.sleep(0.03)
            with open(sys.argv[2], "a") as log:
                log.write(candidate.digest + "\\n")
            yield candidate, Measurement(sum(candidate.path) / 7, 0.0, 1.0, 0.0, 8)

study = Study(sys.argv[1], Space(Architecture((3, 3), (128, 128)), 32), {"seed": 0})
for number in range(3):
    wanted = [Architecture((1 + number, a), (32 * b, 0)) for a in range(4) for b in range(5)]
    to_trial = lambda item, found: EvaluatedArchitecture(item, found, number, "test", 0.5)
    for trial in evaluate_shared(study, Slow(), wanted, to_trial):
        pass
study.close()
"""


@pytest.fixture(params=["folder", pytest.param("sqlite", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study") if request.param == "folder" else f"sqlite:///{tmp_path}/study.db#two"


def start(place: str, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, place, str(log)])


def check(place: str) -> None:
    import optuna

    study = Study(place, SPACE, {"seed": 0})
    assert len(study.trials) == ROUNDS * 20
    assert all(trial.measurement.kl == sum(shape.path) / 7 for shape, trial in study.trials.items())
    assert all(trial.round == shape.groups[0] - 1 for shape, trial in study.trials.items())
    trials = study._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(trials) == len(study._study.get_trials()) == ROUNDS * 20
    assert study.get_attr("claims") == {}
    assert not study.close()


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_two_at_once(place: str, tmp_path: Path) -> None:
    logs = [tmp_path / "a", tmp_path / "b"]
    both = [start(place, log) for log in logs]
    assert [process.wait(60) for process in both] == [0, 0]
    evaluated = [line for log in logs for line in lines(log)]
    assert len(evaluated) == len(set(evaluated)) == ROUNDS * 20
    assert all(lines(log) for log in logs)
    check(place)


def test_one_is_killed(place: str, tmp_path: Path) -> None:
    logs = [tmp_path / "a", tmp_path / "b"]
    both = [start(place, log) for log in logs]
    deadline = time.monotonic() + 60
    while len(lines(logs[0])) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(both[0].pid, signal.SIGKILL)
    assert both[0].wait() == -signal.SIGKILL
    assert both[1].wait(60) == 0
    evaluated = [line for log in logs for line in lines(log)]
    assert len(set(evaluated)) == ROUNDS * 20
    assert len(evaluated) <= ROUNDS * 20 + 1  # the one that was evaluated and not yet recorded
    check(place)
