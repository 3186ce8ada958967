"""A study that commit e570153 wrote is read by today's code, and checkpoints are still cut from it.

The journal in ``data`` is what `secateur prune --keep 0.7 --evaluations 4` left, of a tiny Llama; names of
that machine's files, the model's fingerprint and the dtype it computed in stand there as ``@WORDS@``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.checkpoint.source import open_source
from secateur.cli.commands import run
from secateur.model.architecture import Architecture
from secateur.model.processor import fastest_dtype
from secateur.study.storage import JOURNAL
from secateur.study.view import view_study

DATA = Path(__file__).parent / "data" / "e570153"


@pytest.fixture
def study(tiny_llama: Path, tmp_path: Path) -> Path:
    """The study as if that commit had made it here, from the same text."""
    corpus = tmp_path / "sums.txt"
    corpus.write_text("\n".join(f"{n} and {n * n % 97} make {n + n * n % 97}." for n in range(1500)))
    journal = (DATA / JOURNAL).read_text()
    for word, value in (
        ("@MODEL@", tiny_llama),
        ("@CORPUS@", corpus),
        ("@FINGERPRINT@", open_source(tiny_llama).fingerprint),
        ("@DTYPE@", fastest_dtype()),
    ):
        journal = journal.replace(word, str(value))
    folder = tmp_path / "old.study"
    folder.mkdir()
    (folder / JOURNAL).write_text(journal)
    return folder


def test_view(study: Path) -> None:
    view = view_study(str(study))
    assert view.dense == Architecture((2, 2, 2), (192, 192, 192))
    assert len(view.trials) == 10 and sum(pair.round > 0 for pair in view.trials) == 4
    assert [goal.name for goal in view.goals] == ["0.7"]
    first = view.trials[0]
    assert (first.measurement.kl, first.measurement.tokens) == (0.3612560470017695, 124)
    assert view.table[0, "attention"] == {1: 0.3612560470017695, 2: 0.0}
    assert set(view.costs) == {"params", "total", "memory", "kv"}
    assert view.seconds == {"load": 0.28, "calibrate": 21.69, "search": 2.74}


def test_front(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "front", str(study), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"]["unit"] == "non-embedding parameters"
    assert len(document["front"]) >= 2


def test_report(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = study.parent / "report.html"
    assert run(["study", "report", str(study), "--json", "--out", str(page)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["evaluations"] == 4
    assert document["goals"][0]["best"]["id"] in page.read_text()


def test_cut(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_study(str(study))
    best = min((pair for pair in view.trials if pair.round > 0), key=lambda pair: pair.measurement.kl)
    out = study.parent / "slim"
    cut = ["study", "cut", str(study), "--id", best.architecture.digest, "--out", str(out), "--json"]
    assert run(cut) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["architecture"] == best.architecture.to_json()
    assert record["search"]["kl"] == best.measurement.kl
    assert open_source(out).config.model_type == "secateur"
    assert len(view_study(str(study)).trials) == 10
