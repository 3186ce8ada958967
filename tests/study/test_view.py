"""Looking at a study: what was written comes back, nothing on disk changes, less is no error.

Proven: trials written by `Study` come back equal, from a folder and from a database; a study that is
being written (its last line torn) is read as it stands, and no byte and no file changes; what a study
lacks is empty; the best of a goal fits its budgets and nothing better does.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from secateur.errors import BadInput
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture
from secateur.space.budget import Budget, Goal
from secateur.space.space import Space
from secateur.study.storage import JOURNAL
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture
from secateur.study.view import view_study
from tests.report.studies import DENSE_NLL, made

SPACE = Space(Architecture((3, 3), (128, 128)), 32)


def trial(number: int) -> EvaluatedArchitecture:
    shape = Architecture((1 + number % 3, number // 3 % 4), (32 * (number % 5), 128))
    return EvaluatedArchitecture(
        shape, Measurement(0.1 + number / 3, 1e-17, 2.5, 0.01, 1234), number % 4, f"origin {number}"
    )


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*")}


class TestReading:
    def test_what_a_search_wrote(self, tmp_path: Path) -> None:
        study = Study(tmp_path, SPACE, {"seed": 7})
        trials = [trial(number) for number in range(8)]
        for one in trials:
            study.add(one)
        view = view_study(str(tmp_path))
        assert list(view.trials) == trials
        assert view.dense == SPACE.dense
        assert view.identity["seed"] == 7

    def test_folder_and_database_say_the_same(self, tmp_path: Path) -> None:
        small = made(layers=1, rounds=2, per_round=2)  # a database takes its time for every trial
        folder = view_study(str(small.write_folder(tmp_path / "study")))
        database = view_study(small.write_database(tmp_path / "study.db"))
        for name in ("dense", "trials", "goals", "rounds", "table", "costs", "seconds", "about"):
            assert getattr(folder, name) == getattr(database, name)

    def test_changes_nothing(self, tmp_path: Path) -> None:
        folder = made().write_folder(tmp_path / "study")
        before = contents(folder)
        view_study(str(folder))
        assert contents(folder) == before

    def test_torn_line(self, tmp_path: Path) -> None:
        folder = made().write_folder(tmp_path / "study")
        whole = view_study(str(folder)).trials
        journal = folder / JOURNAL
        journal.write_bytes(journal.read_bytes()[:-20])
        before = contents(folder)
        assert view_study(str(folder)).trials == whole[:-1]
        assert contents(folder) == before

    def test_predictions(self, tmp_path: Path) -> None:
        study = made()
        view = view_study(str(study.write_folder(tmp_path / "study")))
        assert [trial.predicted for trial in view.trials] == [predicted for *_, predicted in study.trials]

    def test_a_study_of_another_name(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'other.db'}"
        made(layers=1, rounds=1, per_round=1).write(RDBStorage(url), "tuesday")
        assert view_study(f"{url}#tuesday").trials
        with pytest.raises(BadInput, match=r"no study named secateur .* tuesday"):
            view_study(url)


class TestWhatIsMissing:
    def test_an_old_study(self, tmp_path: Path) -> None:
        study = made()
        study.attrs = {"identity": {"keep": 0.8, "budget": "params"}}
        view = view_study(str(study.write_folder(tmp_path / "study")))
        assert [goal.name for goal in view.goals] == ["0.8"]
        assert not view.table and not view.costs and not view.rounds and not view.seconds
        assert view.dense_nll is None
        assert view.best(view.goals[0]) == min(view.searched, key=lambda trial: trial.measurement.kl)

    def test_dense_nll_of_a_measured_dense_model(self, tmp_path: Path) -> None:
        study = made()
        del study.attrs["dense"]
        study.trials.append((study.space.dense, Measurement(0.0, 0.0, 3.25, 0.0, 100), 1, "dense", None))
        assert view_study(str(study.write_folder(tmp_path / "study"))).dense_nll == 3.25

    def test_dense_nll_of_the_study(self, tmp_path: Path) -> None:
        assert view_study(str(made().write_folder(tmp_path / "study"))).dense_nll == DENSE_NLL


class TestBest:
    def test_fits_and_nothing_better_does(self, tmp_path: Path) -> None:
        view = view_study(str(made(keeps=(0.9, 0.6), rounds=4).write_folder(tmp_path / "study")))
        params = view.cost("params")
        for goal, keep in zip(view.goals, (0.9, 0.6), strict=True):
            limit = int(keep * params.of(view.dense))
            fitting = [trial for trial in view.trials if params.of(trial.architecture) <= limit]
            best = view.best(goal)
            assert best in fitting
            assert best.measurement.kl == min(trial.measurement.kl for trial in fitting)

    def test_none_fits(self, tmp_path: Path) -> None:
        study = made()
        study.attrs["goals"][0]["limits"][0]["limit"] = 1
        view = view_study(str(study.write_folder(tmp_path / "study")))
        assert view.best(view.goals[0]) is None

    def test_a_goal_without_budgets_is_for_the_search(self, tmp_path: Path) -> None:
        view = view_study(str(made().write_folder(tmp_path / "study")))
        best = view.best(Goal("all", Budget(())))
        assert best is not None and best.round > 0


class TestBadInput:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no such folder"):
            view_study(str(tmp_path / "nowhere"))

    def test_no_study_in_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no study lies there"):
            view_study(str(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no such database"):
            view_study(f"sqlite:///{tmp_path / 'nothing.db'}")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("url", ["nonsense://host/db", "sqlite://///"])
    def test_no_such_kind_of_database(self, url: str) -> None:
        with pytest.raises(BadInput, match="study"):
            view_study(url)

    def test_a_database_of_something_else(self, tmp_path: Path) -> None:
        import sqlite3

        with sqlite3.connect(tmp_path / "other.db") as connection:
            connection.execute("create table things (name text)")
        with pytest.raises(BadInput, match="cannot be opened: no such table"):
            view_study(f"sqlite:///{tmp_path / 'other.db'}")

    def test_empty_journal(self, tmp_path: Path) -> None:
        (tmp_path / JOURNAL).touch()
        with pytest.raises(BadInput, match="nothing is in it yet"):
            view_study(str(tmp_path))

    def test_no_pairs_yet(self, tmp_path: Path) -> None:
        Study(tmp_path, SPACE, {})
        with pytest.raises(BadInput, match="no architecture was evaluated yet"):
            view_study(str(tmp_path))

    def test_not_a_journal(self, tmp_path: Path) -> None:
        (tmp_path / JOURNAL).write_text("not JSON\nnor this\n")
        with pytest.raises(BadInput, match=r"line 1 of study\.journal is damaged"):
            view_study(str(tmp_path))

    def test_a_study_of_something_else(self, tmp_path: Path) -> None:
        import optuna

        url = f"sqlite:///{tmp_path / 'tuning.db'}"
        optuna.create_study(storage=url, study_name="tuning").optimize(
            lambda trial: trial.suggest_float("learning_rate", 0, 1), n_trials=1
        )
        with pytest.raises(BadInput, match="learning_rate"):
            view_study(f"{url}#tuning")

    def test_a_password_is_not_shown(self) -> None:
        with pytest.raises(BadInput) as caught:
            view_study("mysql://me:secret@host/db")
        assert "secret" not in str(caught.value)

    def test_unknown_cost(self, tmp_path: Path) -> None:
        view = view_study(str(made().write_folder(tmp_path / "study")))
        with pytest.raises(BadInput, match="cost: got luck: allowed are params, total, memory, kv"):
            view.cost("luck")
