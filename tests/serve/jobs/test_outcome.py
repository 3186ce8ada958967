"""What a job's process leaves behind: read as written; a damaged file is a process that said nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.serve.jobs.outcome import (
    OUTCOME_FILE,
    JobOutcome,
    read_outcome,
    read_process_exit,
    write_outcome,
)

WHOLE = JobOutcome(checkpoints=("a", "b"), refusal="", field="")


def test_as_it_was_written(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) is None
    write_outcome(tmp_path, WHOLE)
    assert read_outcome(tmp_path) == WHOLE


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"5", b"{}", b"\xff", b'{"checkpoints": 5}'])
def test_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / OUTCOME_FILE).write_bytes(content)
    assert read_outcome(tmp_path) is None
    ended = read_process_exit(tmp_path, 0, tmp_path / "log")
    assert ended.result is None
    assert ended.death
