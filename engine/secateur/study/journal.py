"""The journal of a study: a line of JSON for each operation of Optuna; a damaged one is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from secateur.errors import BadInput
from secateur.study.location import STUDY_NAME

_CREATE_STUDY, _SET_ATTRIBUTE, _CREATE_TRIAL, _LAST_OPERATION = 0, 2, 4, 10  # Optuna's JournalOperation
_ATTRIBUTES = {"rounds": list, "goals": list} | dict.fromkeys(
    ("identity", "claims", "seconds", "dense", "table", "costs", "options"), dict
)


class Journal(JournalFileBackend):
    """Optuna's journal, read strictly.

    Optuna itself leaves out a damaged last line, and whatever names another study.

    Args:
        lock: held around each write; readers take none.
    """

    def __init__(self, file: Path, lock: Any = None) -> None:
        super().__init__(str(file), lock)
        self._file = file
        self._trial_lines: list[int] = []
        self._lines_read = 0
        self._bytes_read = 0

    def replayed(self) -> JournalStorage:
        """Optuna's view of it.

        Raises:
            BadInput: a line is damaged.
        """
        try:
            return JournalStorage(self)
        except BadInput:
            raise
        except Exception as error:  # each field that is missing or of another type has an error of its own
            raise self.damaged(f"{type(error).__name__}: {error}") from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Read the operations that were not read yet; a last line without its end is still being written.

        Raises:
            BadInput: a line is damaged.
        """
        assert log_number_from == self._lines_read, "a journal has one reader"
        with self._file.open("rb") as lines:
            lines.seek(self._bytes_read)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self._lines_read += 1
                operation = self._parsed(line)
                self._bytes_read += len(line)
                if operation["op_code"] == _CREATE_TRIAL:
                    self._trial_lines.append(self._lines_read)
                yield operation

    def damaged(self, reason: str, trial: int | None = None) -> BadInput:
        """The error for the line of a trial, or for the one read last."""
        line_number = self._lines_read if trial is None else self._trial_lines[trial]
        advice = "put a copy of the file back, or remove the line and lose what it holds"
        what = f"line {line_number} of {self._file.name} is damaged ({' '.join(reason.split())}); {advice}"
        return BadInput("study", self._file.parent, what)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            operation = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"not JSON: {error}") from error
        if not isinstance(operation, dict) or operation.get("op_code") not in range(_LAST_OPERATION + 1):
            raise self.damaged("no operation of Optuna")
        is_first = operation["op_code"] == _CREATE_STUDY
        if is_first and operation.get("study_name") != STUDY_NAME:
            raise self.damaged(f"the study is not named {STUDY_NAME}")
        if not is_first and operation.get("study_id", 0) != 0:
            raise self.damaged("there is no such study")
        if operation["op_code"] == _SET_ATTRIBUTE:
            for name, value in operation["user_attr"].items():
                if not isinstance(value, _ATTRIBUTES.get(name, object)):
                    raise self.damaged(f"{name} is no {_ATTRIBUTES[name].__name__}")
        return operation
