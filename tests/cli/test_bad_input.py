"""Bad input to `prune` and `evaluate`: one line naming what is wrong, exit status 2, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.cli.commands import run

Damage = Callable[[Path], None]


@pytest.fixture
def text(tmp_path: Path, english: str) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(english[:20_000])
    return file


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one error line of a command that must end with status 2 and say nothing on stdout."""
    status = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert (status, captured.out, len(errors)) == (2, "", 1), captured.err
    assert "Traceback" not in captured.err
    return errors[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--keep", "1.7"), "--keep: got 1.7"),
        (("--keep", "0"), "--keep: got 0"),
        (("--keep", "-0.5"), "--keep: got -0.5"),
        (("--keep", "nan"), "--keep: got nan"),
        (("--keep", "0.001"), "smallest feasible"),
        (("--keep", "0.8", "--budget", "joules"), "--budget: got joules: allowed are params"),
        ((), "--keep: got nothing: give --keep 0.8"),
        (("--budget", "params"), "--budget: got params: how much of it?"),
        (("--budget", "params=0.8,kv"), "--budget: got params=0.8,kv: give KIND=FRACTION"),
        (("--budget", "params=0.8,params=0.7"), "params is given twice"),
        (("--budget", "params=1.8"), "--budget: got params=1.8"),
        (("--budget", "params=0.8,kv=0.01"), "the smallest feasible is params="),
        (("--keep", "0.8", "--budget", "params=0.8"), "--keep: got 0.8: --budget says already"),
        (("--speedup", "0.9"), "--speedup: got 0.9"),
        (("--speedup", "1.3", "--budget", "latency=0.8"), "--speedup: got 1.3"),
        (
            ("--speedup", "1.3", "--latency-table", "nowhere.json"),
            "--latency-table: got nowhere.json: No such",
        ),
        (("--keep", "0.8", "--latency-table", "nowhere.json"), "nothing limits the latency"),
        (("--keep", "0.8", "--tp", "3"), "--tp: got 3: vLLM cannot share 4 query heads between 3 ranks"),
        (("--keep", "0.8", "--tp", "0"), "--tp: got 0"),
        (("--keep", "0.8", "--protect", "0,9"), "--protect: got 0,9: the model has 3 layers"),
        (("--keep", "0.8", "--protect", "first:3"), "the smallest feasible is 1.0000"),
        (("--keep", "0.8", "--max-shapes", "0"), "--max-shapes: got 0"),
        (("--keep", "0.2", "--protect", "0", "--max-shapes", "1"), "the smallest feasible is 1.0000"),
        (("--keep", "0.8", "--criterion", "luck"), "--criterion: got luck"),
        (("--keep", "0.8", "--corpus", "wikitext99"), "--corpus: got wikitext99: no such file or folder"),
        (("--keep", "0.8", "--corpus", "pydoc:poetry"), "pydoc:poetry"),
        (("--keep", "0.8", "--window", "1"), "--window: got 1"),
        (("--keep", "0.8", "--window", "1024"), "--window: got 1024: the model's context is 512"),
        (("--keep", "0.8", "--quantum", "0"), "--quantum: got 0"),
        (("--keep", "0.8", "--quantum", "100000"), "--quantum: got 100000"),
        (("--keep", "0.8", "--evaluations", "0"), "--evaluations: got 0"),
        (("--keep", "0.8", "--dtype", "int3"), "--dtype: got int3"),
        (("--keep", "0.8", "--predictor", "oracle"), "--predictor: got oracle"),
        (("--keep", "0.8", "--recipe", "soup"), "--recipe: got soup: allowed are secateur, paper"),
        (("--keep", "0.8", "--recipe", "paper", "--evaluations", "3"), "--evaluations: got 3: at least 12"),
        (("--keep", "0.8", "--repair", "glue"), "--repair: got glue: allowed are auto, none"),
        (("--keep", "0.8", "--sampler", "luck"), "--sampler: got luck: allowed are guided"),
    ],
)
def test_options_of_prune(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    out = tmp_path / "out"
    assert named in failure(capsys, "prune", tiny_llama, "--out", out, *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "named"), [("", "empty"), ("A short text.", "shorter than one window")])
def test_corpus_without_enough_text(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path, content: str, named: str
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(content)
    out = tmp_path / "out"
    for command in (("prune", tiny_llama, "--keep", "0.8", "--out", out), ("evaluate", tiny_llama)):
        assert named in failure(capsys, *command, "--corpus", corpus)
    assert list(tmp_path.iterdir()) == [corpus]


def test_study_in_the_place_of_out(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--keep", "0.8", "--out", out, "--study", out)
    assert "--study" in failure(capsys, "prune", tiny_llama, *options)
    assert not list(tmp_path.iterdir())


def test_dense_model_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, text: Path
) -> None:
    assert "--dense: got nowhere" in failure(
        capsys, "evaluate", tiny_llama, "--corpus", text, "--dense", "nowhere"
    )


def test_out_that_exists(capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert "exists" in failure(capsys, "prune", tiny_llama, "--keep", "0.8", "--out", out)
    assert not list(out.iterdir())


def other_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "named"),
    [(other_architecture, "gpt2"), (no_weights, "weights"), (truncated, "model.safetensors")],
)
def test_models_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
    tiny_llama: Path,
    editable: Callable[[Path], Path],
    text: Path,
    damage: Damage,
    named: str,
) -> None:
    folder = editable(tiny_llama)
    damage(folder)
    out = folder.parent / "out"
    for command in (("prune", folder, "--keep", "0.8", "--out", out), ("evaluate", folder)):
        assert named in failure(capsys, *command, "--corpus", text)
    assert sorted(folder.parent.iterdir()) == sorted([folder, text])
