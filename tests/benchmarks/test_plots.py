"""A picture shows the numbers of its result file, ours told from others; what has none is passed over."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.colors import to_hex

from benchmarks import plots

EVALUATION: dict[str, Any] = {
    "model": "M",
    "date": "2026-01-01",
    "throughput": {"bf16": {"candidates_per_second": {"secateur": 3.0, "transformers": 1.0}, "ratio": 3.0}},
    "proportional": {
        "rows": [{"work_ratio": 1.0, "time_ratio": 1.0}, {"work_ratio": 0.5, "time_ratio": 0.6}]
    },
    "ranking": {
        "candidates": 64,
        "seconds_to_tau": {"tau": 0.9},
        "steps": [
            {"secateur_seconds": s, "transformers_seconds": 9 * s, "kl_tau": 0.9, "nll_tau": 0.5}
            for s in (1, 2)
        ],
    },
}


def kernel_row(provider: str, **extra: Any) -> dict[str, Any]:
    measured = {"milliseconds": {"median": 2.0, "p20": 1.5, "p80": 3.0}, "floor_ms": 1.0}
    return {"kernel": "loss", "shape": "N=8", "provider": provider} | measured | extra


def test_evaluation() -> None:
    figure = plots.figure_of(EVALUATION)
    assert figure is not None
    bars, _, ranking = figure.axes
    assert [patch.get_height() for patch in bars.patches] == [3.0, 1.0]  # type: ignore[attr-defined]
    ours, theirs = ranking.lines[:2]
    assert list(ours.get_xdata()) == [1, 2] and list(theirs.get_xdata()) == [9, 18]  # type: ignore[arg-type]


def test_kernels() -> None:
    skipped = {"kernel": "loss", "shape": "N=8", "provider": "liger", "skipped": "not measured: no GPU"}
    rows = [kernel_row("eager"), kernel_row("linear_loss torch"), skipped]
    figure = plots.figure_of({"ceilings": {}, "rows": rows})
    assert figure is not None
    bars = figure.axes[0].patches
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [to_hex(plots.OTHERS), to_hex(plots.OURS)]


def test_samplers() -> None:
    """A run that ended early stays where it was; what no evaluation fitted is a gap."""
    guided = [{"best": [3.0, 2.0], "unseen_kl": 2.5}, {"best": [4.0, 1.0], "unseen_kl": 1.5}]
    greedy = [{"best": [None], "unseen_kl": None}]
    curves = {"ridge": [{"pairs": 10, "tau": 0.5, "tau_std": 0.1}, {"pairs": 50, "tau": 0.8, "tau_std": 0.1}]}
    learning = {"random": {"pairs": 5, "curves": {}}, "all": {"pairs": 50, "curves": curves}}
    figure = plots.figure_of(
        {"samplers": {"guided": guided, "greedy": greedy}, "keep": 0.5, "learning": learning}
    )
    assert figure is not None
    progress, unseen, tau = figure.axes
    assert list(progress.lines[0].get_ydata()) == [3.5, 1.5]  # type: ignore[arg-type]
    assert sorted(unseen.collections[0].get_offsets()[:, 0]) == [1.5, 2.5]  # type: ignore[index]
    assert list(tau.lines[0].get_ydata()) == [0.5, 0.8]  # type: ignore[arg-type]


QUALITY: dict[str, Any] = {
    "dense": {"wikitext2": 30.0},
    "budgets": {"0.9": {}, "0.5": {}},
    "seeds": {
        str(seed): {
            keep: {"perplexity": {"wikitext2": value + seed}}
            for keep, value in (("0.9", 40.0), ("0.5", 80.0))
        }
        for seed in (0, 1)
    },
}


def test_prune_quality() -> None:
    """Secateur as mean and range of seeds, the dense model and every peer, each named beside its line."""
    rows = [{"keep": keep, "perplexity": {"wikitext2": value}} for keep, value in ((0.9, 50.0), (0.5, 200.0))]
    figure = plots.prune_quality(QUALITY, {"methods": {"Peer": {"rows": rows}}})
    (axes,) = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}  # type: ignore[arg-type]
    assert lines["Peer"] == [50.0, 200.0]
    (container,) = axes.containers
    ours, _, (bars,) = container.lines  # type: ignore[attr-defined]
    assert list(ours.get_ydata()) == [40.5, 80.5]
    assert [list(segment[:, 1]) for segment in bars.get_segments()] == [[40.0, 41.0], [80.0, 81.0]]
    texts = [text.get_text() for text in axes.texts]
    assert {"Peer 200", "Secateur 80.5", "dense model"} <= set(texts)
    assert "lower is better" in axes.get_title(loc="left")


def test_the_picture_in_the_readme_is_the_one_of_its_result(tmp_path: Path) -> None:
    """Drawn again it is the same to the byte, where matplotlib is the version that drew it."""
    committed = plots.README_RESULT.with_suffix(".svg")
    figure = plots.figure_of(json.loads(plots.README_RESULT.read_text()))
    assert figure is not None
    again = plots.save(figure, tmp_path / "again.svg").read_text()
    version = matplotlib.__version__
    if f"Matplotlib v{version}" in committed.read_text():
        assert again == committed.read_text()
    assert str(committed.relative_to(plots.RESULTS.parents[1])) in (
        plots.RESULTS.parents[1] / "README.md"
    ).read_text(encoding="utf-8")


def test_the_speed_ups_ceilings_are_no_kernels() -> None:
    assert plots.figure_of({"ceilings": {}, "reached": True}) is None


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, result in (("evaluation", EVALUATION), ("other", {"perplexity": 1.0})):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    files = [str(tmp_path / "evaluation.json"), str(tmp_path / "other.json")]
    monkeypatch.setattr("sys.argv", ["plots", *files])
    plots.main()
    assert sorted(file.name for file in tmp_path.glob("*.svg")) == ["evaluation.svg"]
    assert "<svg" in (tmp_path / "evaluation.svg").read_text()


def test_recovery() -> None:
    validated = [{"step": 0, "kl": 1.0}, {"step": 8, "kl": 0.5}]
    run = {"slim": "s", "train": "full", "text": "self", "tokens_per_step": 256, "validated": validated}
    result = {
        "dense": {"ptb": 10.0},
        "inputs": {"s": {"ptb": 40.0}},
        "recovery": [{**run, "perplexity": {"ptb": 20.0}}],
    }
    figure = plots.figure_of(result)
    assert figure is not None
    learning, tests = figure.axes
    assert learning.lines[0].get_xydata().tolist() == [[0.0, 1.0], [2048.0, 0.5]]  # type: ignore[union-attr]
    assert tests.patches[0].get_height() == pytest.approx(0.5)  # type: ignore[attr-defined]
