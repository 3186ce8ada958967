"""`secateur study`: a document on stdout, tables on stderr, a file where asked for, errors in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.cli.commands import run
from secateur.study.storage import JOURNAL
from tests.report.studies import made


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return made(rounds=2, per_round=6).write_folder(tmp_path / "slim.study")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class TestFront:
    def test_json(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["study", "front", str(study), "--json", "--cost", "memory"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["cost"]["kind"] == "memory" and document["front"]

    def test_table(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["study", "front", str(study)]) == 0
        printed = capsys.readouterr()
        assert printed.out == "" and "on the front" in printed.err


class TestReport:
    def test_writes_the_page_and_prints_tables(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["study", "report", str(study)]) == 0
        printed = capsys.readouterr()
        assert printed.out == "" and "best of every goal" in printed.err
        assert names(study.parent) == ["report.html", "slim.study"]

    def test_json_alone_writes_nothing(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["study", "report", str(study), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["counts"]["evaluations"] == 12
        assert names(study.parent) == ["slim.study"]

    def test_both(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["study", "report", str(study), "--json", "--out", "page.html"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["goals"][0]["best"]["id"] in Path("page.html").read_text()


@pytest.fixture(scope="module")
def pruned(tiny_llama: Path, english: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "text.txt").write_text(english[:40_000])
    options = [
        "--keep",
        "0.8",
        "--corpus",
        folder / "text.txt",
        "--out",
        folder / "slim",
        "--evaluations",
        "30",
    ]
    options += [
        "--window",
        "32",
        "--search-windows",
        "4",
        "--calibration-tokens",
        "2048",
        "--quantum",
        "32",
    ]
    assert run(["prune", str(tiny_llama), *map(str, options)]) == 0
    return folder / "slim.study"


class TestAfterPruning:
    """What a real search writes is what the report reads."""

    def test_report(self, pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        page = tmp_path / "report.html"
        assert run(["study", "report", str(pruned), "--json", "--out", str(page)]) == 0
        document = json.loads(capsys.readouterr().out)
        best = document["goals"][0]["best"]
        assert best["kept"]["params"] <= 0.8 and set(best["kept"]) == {"params", "total", "memory", "kv"}
        figures = document["figures"]
        assert figures["removal"]["sensitivity"] and figures["progress"]["points"] and figures["seconds"]
        assert figures["predictor"]["rounds"] and figures["predictor"]["points"]
        assert best["id"] in page.read_text()

    def test_front(self, pruned: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert run(["study", "front", str(pruned), "--json", "--cost", "kv"]) == 0
        assert json.loads(capsys.readouterr().out)["front"]


Damage = Callable[[Path], None]


@pytest.mark.parametrize("command", ["front", "report"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda journal: journal.unlink(), "no study lies there"),
        (lambda journal: journal.write_bytes(b""), "nothing is in it yet"),
        (lambda journal: journal.write_text("{}\n{}\n"), "line 1 of study.journal is damaged"),
    ],
)
def test_nothing_to_report_on(
    study: Path, capsys: pytest.CaptureFixture[str], command: str, damage: Damage, named: str
) -> None:
    damage(study / JOURNAL)
    before = names(study.parent)
    assert run(["study", command, str(study)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: STUDY: got") and printed.err.count("\n") == 1
    assert named in printed.err
    assert names(study.parent) == before


def test_unknown_cost(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "front", str(study), "--cost", "luck"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --cost: got luck: allowed are params, total, memory, kv"
    )


def test_out_that_is_something_else(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("weights").write_bytes(b"\x00\x01")
    assert run(["study", "report", str(study), "--out", "weights"]) == 2
    assert "no earlier report" in capsys.readouterr().err
    assert Path("weights").read_bytes() == b"\x00\x01"
