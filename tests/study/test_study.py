"""The study on disk: what was added is there after any kind of end, and for its own search only.

Proven: trials come back equal; a line that a kill tore is dropped and nothing else; a study of
something else is refused by the name of what differs; a process killed with the lock in its hands
holds nobody up; two writers do not lose each other's trials.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import OutputFailed, StudyMismatch
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture
from secateur.space.space import Space
from secateur.study.storage import JOURNAL
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture

SPACE = Space(Architecture((3, 3), (128, 128)), 32)
IDENTITY: dict[str, Any] = {
    "model": "abc",
    "corpus": ["x", "y"],
    "seed": 0,
    "keep": 0.8,
    "space": SPACE.to_json(),
}


def trial(number: int) -> EvaluatedArchitecture:
    shape = Architecture((1 + number % 3, number // 3 % 4), (32 * (number % 5), 128))
    # Numbers that decimal text must bring back to the last bit.
    measured = Measurement(0.1 + number / 3, 1e-17 * number, 2.5 + number / 7, 0.01, 1234)
    return EvaluatedArchitecture(shape, measured, number % 4, f"origin {number}")


def opened(folder: Path, **changes: Any) -> Study:
    return Study(folder, SPACE, IDENTITY | changes)


def journal(folder: Path) -> Path:
    return folder / JOURNAL


class TestRoundTrip:
    def test_pairs_come_back_equal(self, tmp_path: Path) -> None:
        study = opened(tmp_path / "deep" / "study")
        trials = {trial(n).architecture: trial(n) for n in range(8)}
        for one in trials.values():
            study.add(one)
        assert study.trials == trials
        again = opened(tmp_path / "deep" / "study")
        assert again.trials == trials
        assert list(again.trials) == list(trials)

    def test_on_disk_before_add_returns(self, tmp_path: Path) -> None:
        study = opened(tmp_path)
        for number in range(3):
            lines = journal(tmp_path).read_bytes().count(b"\n")
            study.add(trial(number))
            assert journal(tmp_path).read_bytes().count(b"\n") == lines + 1
            assert len(opened(tmp_path).trials) == number + 1

    def test_empty(self, tmp_path: Path) -> None:
        assert opened(tmp_path).trials == opened(tmp_path).trials == {}

    def test_optuna_reads_it(self, tmp_path: Path) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        opened(tmp_path).add(trial(1))
        storage = JournalStorage(JournalFileBackend(str(journal(tmp_path))))
        trials = optuna.load_study(study_name="secateur", storage=storage).trials
        assert [trial.value for trial in trials] == [trial(1).measurement.kl]
        assert trials[0].params["layer_000.groups"] == trial(1).architecture.groups[0]


class TestTornLine:
    @pytest.mark.parametrize("lost", [1, 2, 50, 200], ids=lambda lost: f"{lost}-bytes")
    def test_is_dropped_alone(self, lost: int, tmp_path: Path) -> None:
        study = opened(tmp_path)
        for number in range(3):
            study.add(trial(number))
        content = journal(tmp_path).read_bytes()
        journal(tmp_path).write_bytes(content[:-lost])
        again = opened(tmp_path)
        assert list(again.trials.values()) == [trial(0), trial(1)]
        again.add(trial(2))
        assert list(opened(tmp_path).trials.values()) == [trial(0), trial(1), trial(2)]

    def test_at_any_byte(self, tmp_path: Path) -> None:
        """Wherever the file ends, what opens is a beginning of the study, and it goes on from there."""
        study = opened(tmp_path / "whole")
        for number in range(3):
            study.add(trial(number))
        content = journal(tmp_path / "whole").read_bytes()
        for cut in range(0, len(content), 97):
            folder = tmp_path / f"cut-{cut}"
            folder.mkdir()
            journal(folder).write_bytes(content[:cut])
            again = opened(folder)
            found = list(again.trials.values())
            assert found == [trial(n) for n in range(len(found))]
            for number in range(len(found), 3):
                again.add(trial(number))
            assert len(opened(folder).trials) == 3


class TestIdentity:
    @pytest.mark.parametrize(
        ("field", "other"),
        [
            ("model", "abd"),
            ("corpus", ["y", "x"]),
            ("seed", 1),
            ("keep", 0.5),
            ("space", Space(SPACE.dense, 64).to_json()),
        ],
    )
    def test_another_is_refused_by_name(self, field: str, other: object, tmp_path: Path) -> None:
        opened(tmp_path).add(trial(0))
        with pytest.raises(StudyMismatch, match=f"made with another {field} ") as caught:
            opened(tmp_path, **{field: other})
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
        assert caught.value.exit_status == 2
        assert len(opened(tmp_path).trials) == 1

    def test_a_new_field_is_a_difference(self, tmp_path: Path) -> None:
        opened(tmp_path)
        with pytest.raises(StudyMismatch, match="another criterion"):
            opened(tmp_path, criterion="obs")

    def test_tuples_are_lists(self, tmp_path: Path) -> None:
        opened(tmp_path, corpus=("x", "y"))
        opened(tmp_path, corpus=["x", "y"])


class TestSeveralAtOnce:
    def test_two_opens_see_and_keep_each_others_pairs(self, tmp_path: Path) -> None:
        left, right = opened(tmp_path), opened(tmp_path)
        left.add(trial(0))
        right.add(trial(1))
        left.add(trial(2))
        assert set(opened(tmp_path).trials) == {trial(n).architecture for n in range(3)}

    def test_the_same_pair_from_both(self, tmp_path: Path) -> None:
        left, right = opened(tmp_path), opened(tmp_path)
        left.add(trial(0))
        right.add(trial(0))
        assert list(opened(tmp_path).trials.values()) == [trial(0)]

    def test_a_process_killed_inside_the_lock_holds_nobody_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also with a relative path, as people type it."""
        script = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from secateur.study import storage as place\n"
            "lock = place.FileLock(Path('s') / (place.JOURNAL + '.lock'))\n"
            "lock.acquire(); print('held', flush=True); sys.stdin.read()\n"
        )
        monkeypatch.chdir(tmp_path)
        opened(Path("s")).add(trial(0))
        holder = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
        )
        assert holder.stdout is not None and holder.stdin is not None
        with holder:
            assert holder.stdout.readline() == b"held\n"
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
        again = opened(Path("s"))
        again.add(trial(1))
        assert len(again.trials) == 2


class TestPlace:
    def test_a_file_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "study").write_text("")
        with pytest.raises(OutputFailed, match="study: cannot be written"):
            opened(tmp_path / "study")

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputFailed, match="cannot be written"):
            opened(tmp_path / "file" / "study")
