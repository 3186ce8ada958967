"""The page: whole and on its own, drawn from the document alone.

Proven: it asks for nothing from anywhere; every drawing is well-formed and has a mark for every datum;
the document inside is the document; what a study says cannot break out of its place; only an earlier
report is overwritten; a study that holds less still gives a page and tables.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from secateur.errors import BadInput, OutputFailed
from secateur.report.study_front import study_front
from secateur.report.study_page import study_page
from secateur.report.study_page_file import write_page
from secateur.report.study_report import study_report
from secateur.report.study_tables import front_table, report_tables
from secateur.study.view import view_study
from tests.report.studies import Made, made

SVG = "{http://www.w3.org/2000/svg}"


def document_of(study: Made, folder: Path) -> dict[str, Any]:
    return study_report(view_study(str(study.write_folder(folder / "study"))))


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return document_of(made(keeps=(0.9, 0.6), rounds=4), tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> str:
    return study_page(document)


def drawing(page: str, title: str) -> ElementTree.Element:
    """The first drawing of that title; parsing it proves that it is well-formed."""
    for found in re.findall(r"<svg .*?</svg>", page, flags=re.S):
        element = ElementTree.fromstring(found)
        if element.get("aria-label") == title:
            return element
    raise AssertionError(f"no drawing: {title}")


def marks(element: ElementTree.Element) -> list[str]:
    return [item.attrib["data-id"] for item in element.iter() if "data-id" in item.attrib]


class TestOnItsOwn:
    def test_asks_for_nothing(self, page: str) -> None:
        assert not re.search(
            r"""\b(src|href|action)\s*=\s*["']?|@import|url\(|fetch\(|XMLHttp""", page.split("<script>")[0]
        )
        elsewhere = [url for url in re.findall(r"https?://[^\s\"'<]+", page) if "www.w3.org" not in url]
        assert elsewhere == []

    def test_holds_the_document(self, page: str, document: dict[str, Any]) -> None:
        found = re.findall(r'<script type="application/json" id="document">(.*?)</script>', page, flags=re.S)
        assert len(found) == 1
        assert json.loads(found[0]) == document

    def test_drawn_from_plain_json(self, page: str, document: dict[str, Any]) -> None:
        assert study_page(json.loads(json.dumps(document))) == page

    def test_nothing_breaks_out(self, tmp_path: Path) -> None:
        study = made()
        evil = '</script><script>alert("1")</script>&\'"><img src=x>'
        study.attrs["model"] = study.attrs["corpora"][0] = evil
        study.trials[:] = [(*pair[:3], evil, pair[4]) for pair in study.trials]
        document = document_of(study, tmp_path)
        page = study_page(document)
        assert "<script>alert" not in page and "<img" not in page
        assert page.count("<script") == 2
        drawing(page, "Progress over evaluations")


class TestDrawings:
    def test_front_marks_every_pair_twice(self, page: str, document: dict[str, Any]) -> None:
        ids = [point["id"] for point in document["figures"]["front"]["points"]]
        assert sorted(marks(drawing(page, "Pareto front of cost and loss"))) == sorted(ids * 2)

    def test_front_in_its_colour(self, page: str, document: dict[str, Any]) -> None:
        element = drawing(page, "Pareto front of cost and loss")
        ahead = {item.get("data-id") for item in element.iter() if item.get("class") == "on-front"} - {None}
        assert ahead == set(document["figures"]["front"]["costs"]["params"]["front"])

    def test_progress_marks_every_evaluation(self, page: str, document: dict[str, Any]) -> None:
        ids = [point["id"] for point in document["figures"]["progress"]["points"]]
        assert sorted(marks(drawing(page, "Progress over evaluations"))) == sorted(ids)

    def test_predictor_marks_every_prediction(self, page: str, document: dict[str, Any]) -> None:
        ids = [point["id"] for point in document["figures"]["predictor"]["points"]]
        assert sorted(marks(drawing(page, "Predictor against truth"))) == sorted(ids)

    def test_removed_sub_blocks_are_crossed_out(self, page: str, document: dict[str, Any]) -> None:
        best = document["figures"]["widths"]["goals"][0]
        crosses = [
            item for item in drawing(page, "Widths kept per layer").iter() if item.get("class") == "cross"
        ]
        assert len(crosses) == (best["groups"] + best["channels"]).count(0)

    @pytest.mark.parametrize("layers", [1, 80])
    def test_few_and_many_layers(self, layers: int, tmp_path: Path) -> None:
        page = study_page(document_of(made(layers=layers, rounds=1, per_round=3), tmp_path))
        drawing(page, "Widths kept per layer")

    def test_one_evaluation(self, tmp_path: Path) -> None:
        page = study_page(document_of(made(rounds=1, per_round=1), tmp_path))
        drawing(page, "Progress over evaluations")

    def test_more_proposers_than_colours(self, tmp_path: Path) -> None:
        study = made(rounds=2, per_round=10)
        study.trials[:] = [
            (*pair[:3], f"who{chr(97 + i % 12)}", pair[4]) for i, pair in enumerate(study.trials)
        ]
        element = drawing(study_page(document_of(study, tmp_path)), "Progress over evaluations")
        assert "other" in [item.text for item in element.iter(f"{SVG}text")]


class TestLess:
    @pytest.mark.parametrize(
        "gone", ["goals", "rounds", "table", "costs", "seconds", "dense", "identity", "model"]
    )
    def test_one_attribute(self, gone: str, tmp_path: Path) -> None:
        study = made()
        del study.attrs[gone]
        document = document_of(study, tmp_path)
        assert "Widths kept per layer" in study_page(document)
        assert shown(document)

    @pytest.mark.parametrize("rounds", [0, 1])
    def test_nothing_but_pairs(self, rounds: int, tmp_path: Path) -> None:
        study = made(rounds=rounds)
        study.attrs = {}
        document = document_of(study, tmp_path)
        assert "This study does not hold" in study_page(document)
        assert "This study does not hold" in " ".join(shown(document).split())


class TestTables:
    def test_every_goal_with_its_id(self, document: dict[str, Any]) -> None:
        text = shown(document)
        for goal in document["goals"]:
            assert goal["best"]["id"] in text and f"{goal['best']['kl']:.4f}" in text

    def test_front(self, tmp_path: Path) -> None:
        found = study_front(view_study(str(made().write_folder(tmp_path / "study"))), "kv")
        console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
        console.print(front_table(found))
        text = console.export_text()
        assert all(pair["id"] in text for pair in found["front"])
        assert "KV-cache bytes per token" in text


class TestWriting:
    def test_an_earlier_report_is_replaced(self, page: str, tmp_path: Path) -> None:
        write_page(tmp_path / "report.html", page)
        write_page(tmp_path / "report.html", page + "\n")
        assert (tmp_path / "report.html").read_text() == page + "\n"
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"]

    def test_nothing_else_is(self, page: str, tmp_path: Path) -> None:
        (tmp_path / "thesis.html").write_text("<!doctype html>")
        with pytest.raises(BadInput, match="no earlier report"):
            write_page(tmp_path / "thesis.html", page)
        assert (tmp_path / "thesis.html").read_text() == "<!doctype html>"

    @pytest.mark.parametrize(
        ("place", "named"), [("", "is a folder"), ("deep/er/report.html", "not a folder")]
    )
    def test_no_place_for_it(self, page: str, tmp_path: Path, place: str, named: str) -> None:
        with pytest.raises(BadInput, match=named):
            write_page(tmp_path / place, page)

    def test_full_disk(self, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OutputFailed, match="No space"):
            write_page(tmp_path / "report.html", page)
        assert not list(tmp_path.iterdir())


def shown(document: dict[str, Any]) -> str:
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in report_tables(document):
        console.print(part)
    return console.export_text()
