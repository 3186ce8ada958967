"""MMLU from local CSV files: 57 subjects, four choices, five examples of each subject in front of a question.

Prompts are those of lm-eval's own ``mmlu``. Source: Hendrycks et al., arXiv 2009.03300.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from secateur.errors import BadInput

NUM_SHOTS = 5
CHOICES = "ABCD"
CHANCE_ACCURACY = 0.25
LAYOUT = (
    "needs dev/SUBJECT_dev.csv (examples) and test/SUBJECT_test.csv, a row per question: question, four "
    "choices, answer as A to D or 0 to 3"
)


@dataclass(frozen=True)
class MmluQuestion:
    """A question; `answer` is the index of the right choice."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class MmluSubject:
    """Examples and questions of one subject."""

    name: str
    dev: tuple[MmluQuestion, ...]
    test: tuple[MmluQuestion, ...]

    def rows(self) -> dict[str, list[dict[str, object]]]:
        """As lm-eval wants them, by split."""
        return {split: [asdict(question) for question in getattr(self, split)] for split in ("dev", "test")}


def load_mmlu(folder: Path | None) -> tuple[MmluSubject, ...]:
    """The subjects in a folder, by name.

    Raises:
        BadInput: the folder is not laid out as MMLU is, or a row is not a question.
    """
    dev, test = subject_files(folder)
    return tuple(MmluSubject(name, _questions(dev[name]), _questions(test[name])) for name in sorted(dev))


def subject_files(folder: Path | None) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files with examples and with questions, by subject.

    Raises:
        BadInput: the folder is not laid out as MMLU is.
    """
    if folder is None:
        raise BadInput("task_data", "nothing", f"mmlu {LAYOUT}")
    dev, test = (_files(folder, split) for split in ("dev", "test"))
    if not dev or dev.keys() != test.keys():
        odd = sorted(dev.keys() ^ test.keys())
        raise BadInput("task_data", folder, f"{LAYOUT}" + (f"; {odd[0]} is in one alone" if odd else ""))
    return dev, test


def subject_config(subject: MmluSubject) -> dict[str, object]:
    """The subject as a configuration of an lm-eval task, apart from its data."""
    title = subject.name.replace("_", " ")
    return {
        "task": f"mmlu_{subject.name}",
        "description": f"The following are multiple choice questions (with answers) about {title}.\n\n",
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": min(NUM_SHOTS, len(subject.dev)),
        "output_type": "multiple_choice",
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": list(CHOICES),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _files(folder: Path, split: str) -> dict[str, Path]:
    """CSV files of a split by subject."""
    files = (folder / split).glob("*.csv")
    return {file.stem.removesuffix(f"_{split}"): file for file in files}


def _questions(file: Path) -> tuple[MmluQuestion, ...]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput("task_data", file, f"cannot be read: {error}") from error
    if rows and rows[0][-1].strip().lower() == "answer":
        rows = rows[1:]
    if not rows:
        raise BadInput("task_data", file, "has no question")
    return tuple(_question(file, number, row) for number, row in enumerate(rows, start=1))


def _question(file: Path, number: int, row: list[str]) -> MmluQuestion:
    answers = {**{letter: index for index, letter in enumerate(CHOICES)}, **{str(i): i for i in range(4)}}
    if len(row) != 6 or row[-1].strip() not in answers:
        raise BadInput("task_data", file, f"row {number} is not a question, four choices and an answer")
    return MmluQuestion(row[0], tuple(row[1:5]), answers[row[-1].strip()])
