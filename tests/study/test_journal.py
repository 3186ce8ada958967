"""A damaged line of a journal is one error that names it, and the file stays as it is.

Proven for every line of a study and every kind of damage, also of the last line, which Optuna leaves out:
whoever opens the study to search or to look is told the line, no trial is lost without a word, and the file
has the same bytes afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.errors import BadInput
from secateur.study.storage import JOURNAL
from secateur.study.study import Study
from secateur.study.view import view_study
from tests.study.test_study import IDENTITY, SPACE, opened, trial

Damage = Callable[[bytes], bytes]


def with_fields(change: Callable[[dict], None]) -> Damage:
    def damage(line: bytes) -> bytes:
        operation = json.loads(line)
        change(operation)
        return json.dumps(operation).encode() + b"\n"

    return damage


def without_values(operation: dict) -> None:
    for name, value in operation.items():
        if isinstance(value, dict):
            operation[name] = dict.fromkeys(value, 5)


DAMAGE: dict[str, Damage] = {
    "half": lambda line: line[: len(line) // 2] + b"\n",
    "empty": lambda line: b"\n",
    "zeros": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "null": lambda line: b"null\n",
    "a list": lambda line: b"[1]\n",
    "no UTF-8": lambda line: line[:9] + b"\xff" + line[10:],
    "deep": lambda line: b"[" * 100_000 + b"\n",
    "another operation": with_fields(lambda operation: operation.update(op_code=99)),
    "another study": with_fields(lambda operation: operation.update(study_id=7, study_name="other")),
}
DAMAGE_OF_TRIALS: dict[str, Damage] = {
    "types": with_fields(without_values),
    "no measurement": with_fields(lambda trial: trial["user_attrs"].pop("measurement")),
    "text for a number": with_fields(
        lambda operation: operation["user_attrs"]["measurement"].update(nll="x")
    ),
    "no widths": with_fields(lambda operation: operation.update(params={})),
    "another loss": with_fields(lambda operation: operation.update(value=9.0)),
    "another state": with_fields(lambda operation: operation.update(state=9)),
}


def journal_of_three(folder: Path) -> Path:
    study = opened(folder)
    study.set_attr("rounds", [{"number": 1}])
    for number in range(3):
        study.add(trial(number))
    study.close()
    return folder / JOURNAL


def refusals(journal: Path) -> list[str]:
    """Of whoever searches and of whoever looks."""
    texts = []
    for reading in (
        lambda: Study(journal.parent, SPACE, IDENTITY),
        lambda: view_study(str(journal.parent)),
    ):
        with pytest.raises(BadInput) as caught:
            reading()
        texts.append(str(caught.value))
    return texts


@pytest.mark.parametrize("kind", DAMAGE)
def test_any_line(kind: str, tmp_path: Path) -> None:
    journal = journal_of_three(tmp_path)
    whole = journal.read_bytes().splitlines(keepends=True)
    assert len(whole) == 6
    for index in range(len(whole)):
        lines = [*whole[:index], DAMAGE[kind](whole[index]), *whole[index + 1 :]]
        journal.write_bytes(b"".join(lines))
        for text in refusals(journal):
            assert re.search(rf"line {index + 1} of {JOURNAL} is damaged", text), text
            assert "\n" not in text
        assert journal.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("kind", DAMAGE_OF_TRIALS)
def test_a_trial(kind: str, tmp_path: Path) -> None:
    journal = journal_of_three(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[4] = DAMAGE_OF_TRIALS[kind](lines[4])
    journal.write_bytes(b"".join(lines))
    for text in refusals(journal):
        assert f"line 5 of {JOURNAL} is damaged" in text


def test_an_attribute_of_another_type(tmp_path: Path) -> None:
    journal = journal_of_three(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    for index in (1, 2):  # identity and rounds
        damaged = [*lines[:index], with_fields(without_values)(lines[index]), *lines[index + 1 :]]
        journal.write_bytes(b"".join(damaged))
        for text in refusals(journal):
            assert f"line {index + 1} of {JOURNAL} is damaged" in text


def test_without_the_line_the_rest_is_there(tmp_path: Path) -> None:
    """What the error advises."""
    journal = journal_of_three(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4] + lines[5:]))
    again = opened(tmp_path)
    assert list(again.trials.values()) == [trial(0), trial(2)]


def test_a_database_names_the_trial(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "study.db"
    url = f"sqlite:///{file}"
    study = Study(url, SPACE, IDENTITY)
    for number in range(3):
        study.add(trial(number))
    with sqlite3.connect(file) as connection:
        connection.execute(
            "update trial_user_attributes set value_json = '5' where key = 'measurement' and trial_id = 2"
        )
    with pytest.raises(BadInput, match="its trial 1 is damaged"):
        Study(url, SPACE, IDENTITY)
    with pytest.raises(BadInput, match="its trial 1 is damaged"):
        view_study(url)
    content = bytearray(file.read_bytes())
    content[4096 : 4096 * 6] = bytes(4096 * 5)
    file.write_bytes(content)
    with pytest.raises(BadInput, match="cannot be opened"):
        Study(url, SPACE, IDENTITY)
