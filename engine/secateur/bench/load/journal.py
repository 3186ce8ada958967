"""The file of a benchmark: everything measured, a line each, written as it comes.

The first line says what was asked for. A benchmark that is killed leaves all that it had measured; a torn
last line is left out when the file is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from secateur.bench.load.record import RequestRecord
from secateur.errors import BadInput
from secateur.storage import os_errors_as_output_failed

FORMAT = "secateur benchmark 1"


@dataclass(frozen=True)
class LoadHeader:
    """A load that is applied from now on.

    Attributes:
        load: its description, with its label.
    """

    stage: int
    load: Mapping[str, Any]


@dataclass(frozen=True)
class StageNote:
    """Something that happened to a stage.

    Attributes:
        kind: UPPER_SNAKE_CASE, for programs.
        text: one line, for people.
    """

    stage: int
    round: int
    model: str
    kind: str
    text: str


@dataclass(frozen=True)
class GeneratorStats:
    """How the load generator itself was while it ran a stage.

    Attributes:
        seconds: how long that was.
        cpu_seconds: processor time that this process took.
        messages: received with tokens.
        lag_p50_ms, lag_p99_ms: by how much the event loop came late to what was due.
    """

    stage: int
    round: int
    model: str
    seconds: float
    cpu_seconds: float
    messages: int
    lag_p50_ms: float
    lag_p99_ms: float


JournalEntry = LoadHeader | RequestRecord | StageNote | GeneratorStats
# The names on disk.
_KINDS: dict[str, type[LoadHeader | StageNote | GeneratorStats]] = {
    "began": LoadHeader,
    "note": StageNote,
    "generator": GeneratorStats,
}


@dataclass
class BenchmarkLog:
    """All that is known of a benchmark, finished or not.

    Attributes:
        header: what was asked for, and where it ran.
    """

    header: dict[str, Any]
    stages: list[LoadHeader] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    notes: list[StageNote] = field(default_factory=list)
    generators: list[GeneratorStats] = field(default_factory=list)

    def add(self, entry: JournalEntry) -> None:
        match entry:
            case LoadHeader():
                self.stages.append(entry)
            case RequestRecord():
                self.records.append(entry)
            case StageNote():
                self.notes.append(entry)
            case GeneratorStats():
                self.generators.append(entry)


class Journal:
    """A `BenchmarkLog` that is also a file.

    Args:
        file: where; None keeps nothing on disk.
        header: see `BenchmarkLog`.

    Raises:
        OutputFailed: the place cannot be written.
    """

    def __init__(self, file: Path | None, header: Mapping[str, Any]) -> None:
        self.file = file
        self.log = BenchmarkLog(dict(header))
        self._stream: IO[str] | None = None
        if file is not None:
            with os_errors_as_output_failed(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                self._stream = file.open("w", encoding="utf-8")
        self._write({"format": FORMAT, "header": self.log.header})

    def add(self, entry: JournalEntry) -> None:
        """Keep an entry.

        Raises:
            OutputFailed: the disk is full.
        """
        self.log.add(entry)
        if isinstance(entry, RequestRecord):
            self._write({"request": entry.to_json()})
        else:
            kind = next(name for name, entry_type in _KINDS.items() if isinstance(entry, entry_type))
            self._write({kind: asdict(entry)})

    def close(self) -> None:
        """Nothing is added any more."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._stream is not None and self.file is not None:
            with os_errors_as_output_failed(self.file):
                self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
                self._stream.flush()


def read_journal(file: Path) -> BenchmarkLog:
    """The log in a file of records.

    Raises:
        BadInput: it cannot be read, or is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        first = json.loads(lines[0]) if lines else {}
        if not isinstance(first, dict) or first.get("format") != FORMAT:
            raise BadInput("records", file, "no file of records of `secateur bench`")
        log = BenchmarkLog(first["header"])
        for number, line in enumerate(lines[1:], 2):
            try:
                log.add(_entry(json.loads(line)))
            except (ValueError, RecursionError, KeyError, TypeError) as error:
                if number < len(lines):  # the last one may be torn
                    raise BadInput("records", file, f"line {number} is no entry: {error}") from error
    except OSError as error:
        raise BadInput("records", file, error.strerror or "cannot be read") from error
    except ValueError as error:
        raise BadInput("records", file, "no file of records of `secateur bench`") from error
    return log


def _entry(line: Mapping[str, Any]) -> JournalEntry:
    ((kind, content),) = line.items()
    if kind == "request":
        return RequestRecord.from_json(content)
    return _KINDS[kind](**content)
