"""The whole job on a tiny model, in process: what it promises is what lies in the checkpoint.

Proven: windows of statistics, search and validation never overlap; the budget holds in the written
weights; the record has the keys of the design; a refusal comes before any work and leaves nothing.
"""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.corpus import Corpus
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.config.evaluate import EvaluateOptions
from secateur.config.prune import MIN_WINDOWS, PruneOptions
from secateur.errors import BadInput, OutputFailed, StudyMismatch
from secateur.evaluation.corpus_perplexity import evaluate
from secateur.model.architecture import Architecture
from secateur.model.compute import Compute
from secateur.model.decoder import architecture_of
from secateur.model.processor import fastest_dtype
from secateur.prune import prepared_run
from secateur.prune.pipeline import cut_from_study, prune, prune_all
from secateur.prune.surgery import build_slim_model
from secateur.prune.windows import WindowSplit, _spread, split_windows
from secateur.space.costs.parameters import count_parameters


@dataclass
class Notes:
    """A reporter that remembers."""

    stages: list[tuple[str, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))
        self.steps.append(0)

    def step(self, note: str = "", count: int = 1) -> None:
        self.steps[-1] += count

    def message(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads gain nothing on matrices this small, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, english: str) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(english[:24_000])
    return file


def options_for(model: Path, text: Path, out: Path, **changes: Any) -> PruneOptions:
    """A job of seconds."""
    small = PruneOptions(
        model=str(model),
        out=out,
        keep=(0.7,),
        corpus=(str(text),),
        evaluations=10,
        window=32,
        calibration_tokens=3200,
        search_windows=4,
        quantum=32,
    )
    return replace(small, **changes)


@dataclass
class Job:
    """A job that was done once for all tests that look at its result."""

    options: PruneOptions
    record: dict[str, Any]
    notes: Notes


@pytest.fixture(scope="module")
def job(tiny_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    options = options_for(tiny_llama, text, tmp_path_factory.mktemp("job") / "slim")
    notes = Notes()
    return Job(options, prune(options, notes), notes)


def rows(windows: Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in windows.tolist()}


class TestSplit:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        words=st.integers(400, 6000),
        window=st.sampled_from([8, 16, 32]),
        search_windows=st.integers(1, 200),
        tokens=st.integers(256, 5000),
        corpora=st.integers(1, 3),
    )
    def test_disjoint(
        self, words: int, window: int, search_windows: int, tokens: int, corpora: int, tiny_llama: Path
    ) -> None:
        """Every number is another word, so equal windows are the same place in the text."""
        texts = [
            " ".join(str(index * 37) for index in range(part * words, (part + 1) * words))
            for part in range(corpora)
        ]
        named = tuple(Corpus(f"part {index}", text) for index, text in enumerate(texts))
        options = options_for(
            tiny_llama,
            Path("unused"),
            Path("unused-out"),
            window=window,
            search_windows=search_windows,
            calibration_tokens=tokens,
        )
        split = split_windows(open_source(tiny_llama), named, (), options)
        parts = [split.statistics, split.search, split.validation]
        assert not rows(split.repair) & (rows(split.search) | rows(split.validation))
        assert split.repair.numel() <= options.evaluation_budget.repair_tokens < tokens
        assert all(len(part) and part.shape[1] == window for part in parts)
        assert sum(map(len, parts)) == len(set().union(*map(rows, parts)))
        assert len(split.search) <= search_windows
        assert len(split.validation) <= options.evaluation_budget.validation_windows
        assert split.statistics.numel() <= tokens

    def split(
        self, folder: Path, text: str, reserved: tuple[Corpus, ...] = (), **changes: Any
    ) -> WindowSplit:
        options = options_for(folder, Path("unused"), Path("unused-out"), **changes)
        return split_windows(open_source(folder), (Corpus("text", text),), reserved, options)

    def test_reserved_validation_leaves_the_corpus_whole(self, tiny_llama: Path, english: str) -> None:
        own = self.split(tiny_llama, english[:20_000], (Corpus("other", english[30_000:40_000]),))
        held = self.split(tiny_llama, english[:20_000])
        assert len(own.statistics) + len(own.search) >= len(held.statistics) + len(held.search)
        assert not rows(own.validation) & (rows(own.statistics) | rows(own.search))

    def test_repair_is_on_windows_that_statistics_do_not_have(self, tiny_llama: Path, english: str) -> None:
        split = self.split(tiny_llama, english[:20_000], calibration_tokens=32 * 8)
        assert len(split.repair) == 6  # three quarters of eight windows
        assert not rows(split.repair) & rows(split.statistics)

    def test_repair_on_known_windows_where_there_are_no_others(self, tiny_llama: Path, english: str) -> None:
        split = self.split(tiny_llama, english[:20_000], calibration_tokens=10**6)
        assert len(split.repair) and rows(split.repair) <= rows(split.statistics)

    @settings(deadline=None)
    @given(windows=st.integers(1, 500), share=st.floats(0.0, 1.2))
    def test_spread(self, windows: int, share: float) -> None:
        """One of every stretch, none twice, none lost."""
        count = int(windows * share)
        chosen, others = _spread(torch.arange(windows)[:, None], count)
        assert len(chosen) == min(count, windows)
        assert sorted(torch.cat([chosen, others]).flatten().tolist()) == list(range(windows))
        for number, place in enumerate(chosen.flatten().tolist()):
            assert number * windows // len(chosen) <= place < (number + 1) * windows // len(chosen)

    @pytest.mark.parametrize("count", [250, 125, 50])
    def test_every_corpus_has_its_share(self, count: int) -> None:
        """Two corpora alternate window by window: every second, fourth, tenth would be one alone."""
        chosen, _ = _spread(torch.arange(500)[:, None], count)
        assert 0.3 * count < int((chosen % 2).sum()) < 0.7 * count

    def test_search_windows_are_spread(self, tiny_llama: Path, english: str) -> None:
        """Not the beginning of the text alone."""
        split = self.split(tiny_llama, english[:20_000], calibration_tokens=10**6)
        assert len(split.search) == 4
        order = torch.cat([split.statistics, split.search])
        assert not torch.equal(split.search, order[:4])

    def test_too_little(self, tiny_llama: Path) -> None:
        with pytest.raises(BadInput, match=f"windows of 32 tokens, at least {MIN_WINDOWS} are needed"):
            self.split(tiny_llama, "word " * 60)


class TestResult:
    def test_the_checkpoint_is_what_the_record_says(self, job: Job) -> None:
        out, record = job.options.out, job.record
        stored = json.loads((out / "secateur.json").read_text())
        assert stored == json.loads(json.dumps(record))
        slim = open_source(out).load_model()
        assert count_parameters(slim).to_json() == record["kept"] == record["slim"]["parameters"]
        if record["layout"] == "per-layer":
            assert architecture_of(slim) == Architecture.from_json(record["architecture"])

    def test_the_budget_holds(self, job: Job) -> None:
        kept, dense = job.record["kept"], job.record["parameters"]
        assert kept["non_embedding"] <= 0.7 * dense["non_embedding"]
        assert kept["non_embedding"] <= job.record["budget"]["limit"]
        fraction = kept["non_embedding"] / dense["non_embedding"]
        assert job.record["kept_fraction"]["non_embedding"] == pytest.approx(fraction, abs=1e-5)

    def test_keys_of_the_design(self, job: Job) -> None:
        record = job.record
        for key in ("parameters", "kept"):
            assert set(record[key]) == {"total", "non_embedding"}
        for side in ("dense", "slim"):
            assert set(record[side]["parameters"]) == {"total", "non_embedding"}
            assert list(record[side]["perplexity"]) == ["validation"]
            assert all(math.isfinite(value) for value in record[side]["perplexity"].values())
            assert record[side]["memory_bytes"] > 0
        assert set(record["seconds"]) == {
            "load",
            "calibrate",
            "search",
            "choose",
            "repair",
            "total",
        }
        assert record["seed"] == 0 and record["corpora"] == list(job.options.corpus)
        assert record["search"]["evaluations"] == 10
        assert record["options"] == job.options.for_study()
        assert {"secateur", "torch", "transformers", "python"} <= set(record["versions"])

    def test_bytes_of_the_weights(self, job: Job) -> None:
        weights = (job.options.out / "model.safetensors").stat().st_size
        assert 0 <= weights - job.record["slim"]["memory_bytes"] < 20_000  # the header

    def test_model_card(self, job: Job) -> None:
        card = (job.options.out / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: transformers")
        assert f"{job.record['kept']['total']:,}" in card and "| perplexity, validation |" in card

    def test_only_the_study_stays_beside_it(self, job: Job) -> None:
        assert sorted(os.listdir(job.options.out.parent)) == ["slim", "slim.study"]
        assert "calibration" not in os.listdir(job.options.study_folder)

    def test_every_stage_says_how_long_it_is(self, job: Job) -> None:
        assert [name.split()[0] for name, _ in job.notes.stages] == [
            "calibrating",
            "evaluating",
            "searching",
            "judging",
            "repairing",
            "comparing",
            "exporting",
        ]
        for (name, total), steps in zip(job.notes.stages, job.notes.steps, strict=True):
            assert steps == total, name

    def test_a_second_run_repeats_it_from_the_study(self, job: Job) -> None:
        """Nothing is evaluated again, and the weights are the same bytes."""
        again = replace(job.options, out=job.options.out.with_name("again"), study=job.options.study_url)
        notes = Notes()
        record = prune(again, notes)
        assert record["architecture"] == job.record["architecture"]
        names = [name.split()[0] for name, _ in notes.stages]
        assert "evaluating" not in names and "searching" not in names
        weights = [(folder / "model.safetensors").read_bytes() for folder in (job.options.out, again.out)]
        assert weights[0] == weights[1]


class TestSeveralBudgets:
    """One search, a checkpoint for each budget, and more cut from the study afterwards."""

    @pytest.fixture(scope="class")
    @classmethod
    def jobs(
        cls, tiny_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[PruneOptions, list[dict[str, Any]]]:
        out = tmp_path_factory.mktemp("several") / "slim"
        options = options_for(tiny_llama, text, out, keep=(0.8, 0.6), evaluations=24)
        return options, prune_all(options, Notes())

    def test_a_checkpoint_each(self, jobs: tuple[PruneOptions, list[dict[str, Any]]]) -> None:
        options, records = jobs
        assert [record["budget"]["keep"] for record in records] == [0.8, 0.6]
        for out, record in zip(options.outs, records, strict=True):
            slim = open_source(out).load_model()
            assert count_parameters(slim).non_embedding <= record["budget"]["limit"]
        assert sorted(path.name for path in options.out.iterdir()) == ["0.6", "0.8"]

    def test_cut_from_the_study(
        self, jobs: tuple[PruneOptions, list[dict[str, Any]]], tmp_path: Path
    ) -> None:
        """The same weights as the search made of them, without evaluating or calibrating anything."""
        options, records = jobs
        own = replace(options, keep=(0.6,), out=tmp_path / "again", study=options.study_url)
        notes = Notes()
        record = cut_from_study(own, notes)
        assert record["architecture"] == records[1]["architecture"]
        assert not {"calibrating", "searching"} & {name.split()[0] for name, _ in notes.stages}
        weights = [(folder / "model.safetensors").read_bytes() for folder in (options.outs[1], own.out)]
        assert weights[0] == weights[1]

    def test_cut_one_by_name(self, jobs: tuple[PruneOptions, list[dict[str, Any]]], tmp_path: Path) -> None:
        options, records = jobs
        digest = Architecture.from_json(records[0]["architecture"]).digest
        own = replace(options, keep=(0.8,), out=tmp_path / "named", study=options.study_url)
        assert cut_from_study(own, Notes(), digest)["architecture"] == records[0]["architecture"]
        with pytest.raises(BadInput, match="id: got nothing: the study has no such architecture"):
            cut_from_study(replace(own, out=tmp_path / "other"), Notes(), "nothing")
        assert not (tmp_path / "other").exists()

    def test_nothing_that_small(
        self, jobs: tuple[PruneOptions, list[dict[str, Any]]], tmp_path: Path
    ) -> None:
        options, _ = jobs
        own = replace(options, keep=(0.2,), out=tmp_path / "tiny", study=options.study_url)
        with pytest.raises(BadInput, match="no trial of the study is within"):
            cut_from_study(own, Notes())

    def test_too_few_evaluations_for_all_budgets(self, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
        """The first budget's round spends them all: that is said, and what was evaluated is kept."""
        options = options_for(tiny_llama, text, tmp_path / "out", keep=(0.9, 0.5), evaluations=1)
        with pytest.raises(BadInput, match=r"evaluations: got 1: more: none was left for 0\.5"):
            prune_all(options, Notes())
        assert options.study_folder.is_dir() and not options.out.exists()


class TestVariants:
    def test_another_family_and_memory(self, tiny_qwen3: Path, text: Path, tmp_path: Path) -> None:
        options = options_for(
            tiny_qwen3, text, tmp_path / "slim", budget={"memory": None}, criterion="taylor", evaluations=3
        )
        record = prune(options, Notes())
        assert record["slim"]["memory_bytes"] <= 0.7 * record["dense"]["memory_bytes"]
        assert record["budget"]["unit"] == "weight bytes"

    def test_tokens_without_a_row_are_left_out(
        self, extended_llama: Path, text: Path, tmp_path: Path
    ) -> None:
        """Of the checkpoint, of one cut later, and of the dense model to compare them with."""
        options = options_for(extended_llama, text, tmp_path / "slim", drop_extra_tokens=True)
        prune(options, Notes())
        again = replace(options, out=tmp_path / "again", study=str(options.study_folder))
        cut_from_study(again, Notes())
        for out in (options.out, again.out):
            assert not open_source(out).extra_tokens
            document = evaluate(EvaluateOptions(str(out), (str(text),), window=32, windows=4), Notes())
            assert document["dense"]["parameters"]["total"] > document["slim"]["parameters"]["total"]

    def test_a_study_made_without_the_option_goes_on_where_there_is_nothing_to_leave_out(
        self, job: Job, tmp_path: Path
    ) -> None:
        notes = Notes()
        options = replace(
            job.options,
            study=str(job.options.study_folder),
            out=tmp_path / "slim",
            drop_extra_tokens=True,
        )
        record = prune(options, notes)
        assert record["architecture"] == job.record["architecture"]
        assert not {"evaluating", "searching"} & {name.split()[0] for name, _ in notes.stages}

    def test_the_papers_way(self, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
        """Only cut, ranked by what was asked for; the report is in the record; resumed it is the same."""
        options = options_for(
            tiny_llama,
            text,
            tmp_path / "slim",
            sampler="paper",
            criterion="taylor",
            repair="none",
            evaluations=16,
        )
        record = prune(options, Notes())
        report = record["search"]["paper"]
        assert (report["train"], report["held_out"]) == (8, 4)
        assert set(report["ranges"]) == set(report["importance"]) and len(report["ranges"]) == 6
        assert record["repair"] == "none" and record["criterion"] == "taylor"
        assert record["kept_fraction"]["non_embedding"] <= 0.7
        again = prune(replace(options, out=tmp_path / "again", study=options.study_url), Notes())
        assert again["search"] == record["search"]
        with pytest.raises(StudyMismatch, match="made with another repair"):
            prune(replace(options, repair="auto", out=tmp_path / "x", study=options.study_url), Notes())

    def test_nothing_to_cut(self, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
        record = prune(options_for(tiny_llama, text, tmp_path / "slim", keep=(1.0,)), Notes())
        assert record["kept"] == record["parameters"] and record["layout"] == "stock"
        assert record["repair"] == "none" and record["search"]["kl"] == 0.0

    def test_as_small_as_it_goes(self, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
        """Whatever the smallest feasible budget leaves can be written and loaded."""
        with pytest.raises(BadInput, match="smallest feasible") as caught:
            prune(options_for(tiny_llama, text, tmp_path / "slim", keep=(1e-6,)), Notes())
        keep = float(str(caught.value).split("smallest feasible is ")[1].split()[0])
        prune(options_for(tiny_llama, text, tmp_path / "slim", keep=(keep,)), Notes())
        slim = open_source(tmp_path / "slim").load_model()
        assert sum(architecture_of(slim).groups) == 1

    def test_validation_of_its_own(self, tiny_llama: Path, text: Path, tmp_path: Path, english: str) -> None:
        other = tmp_path / "other.txt"
        other.write_text(english[50_000:60_000])
        options = options_for(
            tiny_llama, text, tmp_path / "slim", validation=(str(other),), dtype="bfloat16", evaluations=2
        )
        record = prune(options, Notes())
        assert list(record["slim"]["perplexity"]) == [str(other)]
        assert record["corpora"] == [str(text), str(other)] and record["dtype"] == "bfloat16"


class TestRefused:
    """Before any work: no stage begins, nothing appears beside `--out`."""

    def refused(self, options: PruneOptions, kind: type[Exception], words: str) -> None:
        notes, before = Notes(), set(options.out.parent.iterdir())
        with pytest.raises(kind, match=words) as caught:
            prune(options, notes)
        assert "\n" not in str(caught.value)
        assert notes.stages == []
        assert set(options.out.parent.iterdir()) == before

    def test_out_exists_is_said_first(self, tmp_path: Path) -> None:
        """Before the model, which is not there either."""
        (tmp_path / "slim").mkdir()
        options = options_for(tmp_path / "no-model", tmp_path / "no-text", tmp_path / "slim")
        self.refused(options, BadInput, "out: got .*slim: exists")

    def test_the_study_of_another_seed(self, job: Job, tmp_path: Path) -> None:
        options = replace(job.options, seed=1, out=tmp_path / "other", study=job.options.study_url)
        self.refused(options, StudyMismatch, "study: got .* made with another seed")

    def test_the_study_of_a_host_that_computes_in_another_dtype(
        self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = fastest_dtype()
        there = Compute.on_cpu(torch.float32 if here == torch.bfloat16 else torch.bfloat16)
        monkeypatch.setattr(prepared_run, "choose_compute", lambda *_: there)
        options = replace(job.options, out=tmp_path / "other", study=job.options.study_url)
        self.refused(
            options, StudyMismatch, f'made with another compute_dtype ."{here}", now "{there.dtype}"'
        )

    def test_a_file_in_the_place_of_the_study(self, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        options = options_for(tiny_llama, text, tmp_path / "slim", study=str(tmp_path / "file"))
        self.refused(options, OutputFailed, "file: cannot be written")

    @pytest.mark.parametrize(
        ("corpus", "validation"),
        [("pydoc:test", "pydoc:test"), ("pydoc", "pydoc:validation"), ("pydoc:test", "pydoc")],
    )
    def test_validation_that_the_search_has_seen(
        self, corpus: str, validation: str, tiny_llama: Path, tmp_path: Path
    ) -> None:
        options = options_for(
            tiny_llama, Path("unused"), tmp_path / "slim", corpus=(corpus,), validation=(validation,)
        )
        self.refused(options, BadInput, "validation: got .*: overlaps `corpus`")


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Any:
        place = tmp_path / "disk"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(place)]
        try:
            if subprocess.run(mount, capture_output=True).returncode:
                pytest.skip("may not mount a file system")
        except FileNotFoundError:
            pytest.skip("no mount command")
        yield place
        gc.collect()  # a study that failed holds its lock until its cycles are collected
        subprocess.run(["umount", str(place)], check=True)

    def test_one_line_and_status_2(
        self, disk: Path, tiny_llama: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Through the command line; the study is elsewhere."""
        from secateur.cli.commands import run

        small = "--window 32 --calibration-tokens 3200 --search-windows 4 --quantum 32 --evaluations 2"
        place = ["--out", str(disk / "slim"), "--study", str(tmp_path / "study")]
        arguments = ["prune", str(tiny_llama), "--keep", "0.7", "--corpus", str(text), *small.split()]
        assert run([*arguments, *place, "--json"]) == 2
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
        assert printed.out == "" and len(errors) == 1 and "the disk is full" in errors[0]
        assert os.listdir(disk) == []

    def test_while_calibrating(self, disk: Path, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
        """What is left of an unfinished calibration does not count when the job starts again."""
        subprocess.run(["mount", "-o", "remount,size=4000k", str(disk)], check=True)
        (disk / "other").write_bytes(b"x" * 3_900_000)
        options = options_for(tiny_llama, text, tmp_path / "slim", study=str(disk / "study"), evaluations=2)
        with pytest.raises(OutputFailed, match="cannot be written"):
            prune(options, Notes())
        assert not (tmp_path / "slim").exists()
        (disk / "other").unlink()
        prune(options, Notes())
        assert (tmp_path / "slim" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_slim_model_is_cut_further(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    """Of layers that differ and lack halves: what was cut stays cut, and the card says where it came from."""
    source = open_source(tiny_llama)
    shape = Architecture((2, 1, 0), (64, 0, 192))
    slim = build_slim_model(BlockLibrary(source.load_model(), None, torch.float32), shape)
    once = tmp_path / "once"
    export(slim, source, once, None, torch.float32)
    model = {"reference": "dense", "path": str(tiny_llama)}
    earlier = {"model": model, "kept_fraction": {"non_embedding": 0.6}}
    (once / "secateur.json").write_text(json.dumps(earlier))
    record = prune(options_for(once, text, tmp_path / "twice", quantum=16, keep=(0.8,)), Notes())
    for found, before in zip(
        (*record["architecture"].values(),), (shape.groups, shape.channels), strict=True
    ):
        assert all(0 <= width <= most for width, most in zip(found, before, strict=True))
    assert record["kept_fraction"]["non_embedding"] <= 0.8
    assert record["model"]["cut_from"]["reference"] == "dense"
    opened = open_source(tmp_path / "twice")
    dense = opened.config.dense_config()
    for name in ("num_key_value_heads", "intermediate_size", "num_hidden_layers", "rope_parameters"):
        assert getattr(dense, name) == getattr(source.config, name)
    assert architecture_of(opened.load_model()).to_json() == record["architecture"]
    assert "was itself pruned, from dense to 60.0%" in (tmp_path / "twice" / "README.md").read_text()
