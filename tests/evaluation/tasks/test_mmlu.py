"""MMLU files: both layouts that are about are read alike; anything else is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.errors import BadInput
from secateur.evaluation.tasks.mmlu import MmluQuestion, load_mmlu, subject_config

RELEASED = '"What is 1, plus 1?",1,2,3,4,B\nLetter?,a,b,c,d,A\n'
WITH_HEADER = "question,choice0,choice1,choice2,choice3,answer\n" + RELEASED.replace(",B", ",1").replace(
    "d,A", "d,0"
)


def folder(place: Path, text: str, subject: str = "high_school_math") -> Path:
    for split in ("dev", "test"):
        (place / split).mkdir(exist_ok=True)
        (place / split / f"{subject}_{split}.csv").write_text(text)
    return place


@pytest.mark.parametrize("text", [RELEASED, WITH_HEADER])
def test_both_layouts(tmp_path: Path, text: str) -> None:
    (subject,) = load_mmlu(folder(tmp_path, text))
    assert subject.name == "high_school_math"
    assert subject.test == subject.dev
    assert subject.test[0] == MmluQuestion("What is 1, plus 1?", ("1", "2", "3", "4"), 1)
    assert subject.test[1].answer == 0


def test_the_prompt_names_the_subject(tmp_path: Path) -> None:
    (subject,) = load_mmlu(folder(tmp_path, RELEASED))
    config = subject_config(subject)
    assert "about high school math.\n\n" in str(config["description"])
    assert config["num_fewshot"] == 2  # as many as there are, five at most


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no question"),
        ("q,a,b,c,A\n", "row 1 is not a question, four choices and an answer"),
        ("q,a,b,c,d,E\n", "row 1 is not"),
        ("q,a,b,c,d,A\nq,a,b,c,d,4\n", "row 2 is not"),
    ],
)
def test_rows_that_are_no_questions(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_mmlu(folder(tmp_path, text))


def test_folders_that_are_no_mmlu(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"task_data: got nothing: mmlu needs dev/SUBJECT_dev\.csv"):
        load_mmlu(None)
    with pytest.raises(BadInput, match=r"task_data: got .*: needs dev/SUBJECT_dev\.csv"):
        load_mmlu(tmp_path)
    folder(tmp_path, RELEASED)
    (tmp_path / "dev" / "extra_dev.csv").write_text(RELEASED)
    with pytest.raises(BadInput, match="extra is in one alone"):
        load_mmlu(tmp_path)
    (tmp_path / "dev" / "extra_dev.csv").unlink()
    (tmp_path / "test" / "high_school_math_test.csv").write_bytes(b"\xff\xfe\n")
    with pytest.raises(BadInput, match="cannot be read"):
        load_mmlu(tmp_path)
