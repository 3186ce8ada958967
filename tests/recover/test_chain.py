"""`prune --recover`: what is cut is recovered to its place; what a killed run has done is not done again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from secateur.cli.commands import run
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput
from secateur.progress import SilentReporter
from secateur.recover.chain import prune_and_recover


def test_what_is_cut_already_is_recovered_alone(
    slim_llama: Path, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    def prune(options: PruneOptions) -> None:
        raise AssertionError(f"{options.out} is there")

    out, cut = tmp_path / "out", tmp_path / "out.cut"
    options = PruneOptions(
        model=str(tiny_llama), out=out, keep=(0.5,), corpus=(str(text),), window=32, recover=0.02
    )
    shutil.copytree(slim_llama, cut)
    record_file = cut / "secateur.json"
    cut_record = json.loads(record_file.read_text()) if record_file.exists() else {}
    cut_record |= {"options": options.for_study(), "budget": {"limits": {"params": {"keep": 0.5}}}}
    record_file.write_text(json.dumps(cut_record))

    for other in ({"keep": (0.6,)}, {"seed": 1}):
        with pytest.raises(BadInput, match=r"out: got .*out\.cut: is there from a run with other options"):
            prune_and_recover(replace(options, **other), prune, SilentReporter())
    (record,) = prune_and_recover(options, prune, SilentReporter())
    assert record["out"] == str(out) and record["recovery"]["options"]["minutes"] == 0.02
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_several_budgets_in_one_command(
    tiny_llama: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    small = ["--window", "32", "--calibration-tokens", "1024", "--evaluations", "24", "--quantum", "32"]
    command = ["prune", str(tiny_llama), "--keep", "0.8,0.6", "--corpus", str(text), "--out", str(out)]
    assert run([*command, *small, "--recover", "0.02", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    for result, keep in zip(results, ("0.8", "0.6"), strict=True):
        assert result["out"] == str(out / keep) and result["recovery"]["steps"] > 0
        assert json.loads((out / keep / "secateur.json").read_text())["search"] == result["search"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "out.study"]
