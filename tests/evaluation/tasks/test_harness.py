"""Tasks through lm-eval: its numbers are those of transformers on whole logits, for dense and slim models.

Proven with every answer computed here by hand: log-likelihoods of each choice after its prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.corpus import load_corpus
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.checkpoint.transformers_module import transformers_module
from secateur.cli.commands import run
from secateur.config.evaluate import EvaluateOptions
from secateur.errors import BadInput
from secateur.evaluation.tasks.harness import _first_needed, load_tasks, run_tasks
from secateur.evaluation.tasks.passages import cloze_examples, ending_examples
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.prune.surgery import build_slim_model

pytest.importorskip("lm_eval", reason="the extra [tasks] is not installed")
LIMIT = 12


class Counts:
    """A reporter that counts."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def stage(self, name: str, total: int) -> None:
        self.total += total

    def step(self, note: str = "", count: int = 1) -> None:
        self.done += count

    def message(self, line: str) -> None: ...


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, english: str) -> Path:
    file = tmp_path_factory.mktemp("tasks") / "text.txt"
    file.write_text(english[:30_000])
    return file


@pytest.fixture(scope="module")
def slim(tiny_llama: Path) -> DecoderModel:
    dense = open_source(tiny_llama).load_model()
    return build_slim_model(BlockLibrary(dense, None, torch.float32), Architecture((2, 0, 1), (64, 192, 0)))


@pytest.fixture(scope="module")
def checkpoint(slim: DecoderModel, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slim") / "checkpoint"
    export(slim, open_source(tiny_llama), folder, None, torch.float32)
    return folder


@pytest.fixture(scope="module", params=["dense", "slim", "slim, loaded"])
def model(
    request: pytest.FixtureRequest, tiny_llama: Path, slim: DecoderModel, checkpoint: Path
) -> DecoderModel:
    folders = {"dense": tiny_llama, "slim, loaded": checkpoint}
    return slim if request.param == "slim" else open_source(folders[request.param]).load_model()


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return open_source(tiny_llama).tokenizer()


def log_likelihood(
    model: DecoderModel, tokenizer: Any, context: str, continuation: str
) -> tuple[float, bool]:
    """Sum of log-probabilities of the continuation, and whether greedy decoding would say it."""
    before, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
    ids = torch.tensor([whole])
    with torch.inference_mode():
        logits = torch.log_softmax(transformers_module(model)(ids).logits[0, :-1], -1)
    wanted = ids[0, len(before) :]
    tail = logits[len(before) - 1 :]
    return float(tail.gather(1, wanted[:, None]).sum()), bool((tail.argmax(-1) == wanted).all())


def accuracy(model: DecoderModel, tokenizer: Any, name: str) -> dict[str, Any]:
    counts = Counts()
    result = run_tasks(model, tokenizer, load_tasks([name], None), LIMIT, "answering", counts)[name]
    assert counts.done == counts.total > 0
    return result


def test_endings_are_judged_by_likelihood(model: DecoderModel, tokenizer: Any, text: Path) -> None:
    name = f"ending:{text}"
    right, right_by_length = 0, 0
    for example in ending_examples(load_corpus(str(text)))[:LIMIT]:
        scores = [log_likelihood(model, tokenizer, example.context, f" {end}")[0] for end in example.endings]
        by_length = [score / len(end) for score, end in zip(scores, example.endings, strict=True)]
        right += scores.index(max(scores)) == example.answer
        right_by_length += by_length.index(max(by_length)) == example.answer
    result = accuracy(model, tokenizer, name)
    assert result["accuracy"] == pytest.approx(right / LIMIT)
    assert result["accuracy_by_length"] == pytest.approx(right_by_length / LIMIT)
    assert result["chance"] == 0.25 and result["examples"] == LIMIT and result["stderr"] > 0


def test_cloze_is_judged_by_greedy_decoding(model: DecoderModel, tokenizer: Any, text: Path) -> None:
    examples = cloze_examples(load_corpus(str(text)))[:LIMIT]
    right = [log_likelihood(model, tokenizer, example.context, f" {example.word}")[1] for example in examples]
    result = accuracy(model, tokenizer, f"cloze:{text}")
    assert result["accuracy"] == pytest.approx(sum(right) / LIMIT)
    assert result["chance"] is None


def test_mmlu_is_the_mean_over_subjects(tiny_llama: Path, tokenizer: Any, tmp_path: Path) -> None:
    """One subject is always answered as the model does, the other, with more questions, never: .5."""
    model = open_source(tiny_llama).load_model()
    rows = "Which letter?,a,b,c,d,{}\n"
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
    for subject, questions in (("one", 2), ("two", 6)):
        (tmp_path / "dev" / f"{subject}_dev.csv").write_text(rows.format("A") * 2)
        (tmp_path / "test" / f"{subject}_test.csv").write_text(rows.format("A") * questions)
    shown = "Which letter?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    for subject, hit in (("one", True), ("two", False)):
        start = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        prompt = start + f"{shown} A\n\n" * 2 + shown
        scores = [log_likelihood(model, tokenizer, prompt, f" {letter}")[0] for letter in "ABCD"]
        best = scores.index(max(scores))
        answer = "ABCD"[best if hit else (best + 1) % 4]
        file = tmp_path / "test" / f"{subject}_test.csv"
        file.write_text(rows.format(answer) * file.read_text().count("\n"))
    result = run_tasks(model, tokenizer, load_tasks(["mmlu"], tmp_path), None, "answering", Counts())["mmlu"]
    assert result["accuracy"] == 0.5
    assert (result["examples"], result["subjects"], result["chance"]) == (8, 2, 0.25)


def test_positions_that_are_not_asked_for_are_left_out() -> None:
    tokens_BT = torch.tensor([[5, 6, 7, 8, 9, 9], [5, 6, 7, 8, 0, 0]])
    assert _first_needed(tokens_BT, 1) == 3
    assert _first_needed(tokens_BT, 3) == 1
    assert _first_needed(tokens_BT, 9) == 0


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("hellaswag", "tasks: got hellaswag: allowed are mmlu, cloze:CORPUS and ending:CORPUS"),
        ("cloze", "allowed are"),
        ("cloze:", "allowed are"),
        ("cloze:pydoc,cloze:pydoc", "name each task once"),
    ],
)
def test_no_such_task(names: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        EvaluateOptions("model", tasks=tuple(names.split(",")))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cloze:nowhere", "tasks: got cloze:nowhere: no such file or folder; give files"),
        ("mmlu", "task_data: got nothing"),
    ],
)
def test_without_its_data(name: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_tasks([name], None)


def test_command(tiny_llama: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = f"ending:{text}"
    assert run(["evaluate", str(tiny_llama), "--tasks", named, "--limit", "4", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert set(document["tasks"]) == {named} and document["tasks"][named]["examples"] == 4
    assert document["perplexity"] == {}
    assert "accuracy ± standard error" in printed.err and "0.250" in printed.err


def test_command_on_a_slim_checkpoint(
    checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--dense", "", "--tasks", f"ending:{text}", "--limit", "4", "--json"]
    assert run(["evaluate", str(checkpoint), *asked]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"][f"ending:{text}"]["examples"] == 4


def test_command_without_anything_to_do(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(tiny_llama)]) == 2
    assert "--corpus: got nothing: give --corpus, --tasks or --instructions" in capsys.readouterr().err
