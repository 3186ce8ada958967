"""What is written is read again, also after a kill in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.bench.load.journal import GeneratorStats, Journal, LoadHeader, StageNote, read_journal
from secateur.bench.load.record import EngineTimings, Phase, RequestRecord
from secateur.errors import BadInput

RECORD = RequestRecord(
    stage=0,
    round=1,
    model="slim",
    index=4,
    phase=Phase.MEASURED,
    intended=1.0,
    sent=1.25,
    times=(1.5, 1.75, 2.0),
    tokens=(1, 2, 1),
    ended=2.0,
    prompt_tokens=9,
    output_tokens=4,
    cached_tokens=0,
    engine=EngineTimings(0.5, 200.0, 500.0),
)
FAILED = RequestRecord(
    0, 0, "slim", 5, Phase.WARMUP, 0.0, 0.0, (), (), 1.0, 9, 0, error="UNAVAILABLE", message="gone"
)
ENTRIES = (
    LoadHeader(0, {"kind": "closed", "label": "concurrency 1"}),
    RECORD,
    FAILED,
    StageNote(0, 0, "slim", "GAVE_UP", "given up"),
    GeneratorStats(0, 0, "slim", 1.5, 0.25, 100, 0.1, 0.5),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "folder" / "records.jsonl", {"labels": ["slim"]})
    for entry in ENTRIES:
        journal.add(entry)
    assert journal.file is not None
    return journal.file  # not closed: every line is there at once


def test_read_again(file: Path) -> None:
    log = read_journal(file)
    assert log.header == {"labels": ["slim"]}
    assert (*log.stages, *log.records, *log.notes, *log.generators) == ENTRIES


def test_a_torn_last_line_is_left_out(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])
    log = read_journal(file)
    assert log.records == [RECORD, FAILED] and not log.generators


@pytest.mark.parametrize("content", ["", "{}", "[]", "text", '{"format": "other"}'])
def test_other_files(tmp_path: Path, content: str) -> None:
    other = tmp_path / "other"
    other.write_text(content)
    with pytest.raises(BadInput, match=r"records: .*no file of records"):
        read_journal(other)


def test_a_line_that_is_no_entry(file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"request": {"stage": 1}}', *lines[1:]]))
    with pytest.raises(BadInput, match="line 2 is no entry"):
        read_journal(file)


def test_times_of_a_record() -> None:
    assert (RECORD.queue_ms, RECORD.ttft_ms, RECORD.e2e_ms) == (250.0, 500.0, 1000.0)
    assert RECORD.itls_ms == [250.0, 250.0]
    assert RECORD.tpot_ms == pytest.approx(500 / 3)  # three tokens after the first message
    assert RECORD.ok and not FAILED.ok
