"""The evaluation document: the protocol's perplexities, the design's keys, the dense model beside a slim one.

Proven against transformers: the loss of the first windows of each corpus, exponentiated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.cli.commands import run
from secateur.config.evaluate import EvaluateOptions
from secateur.errors import BadInput, BrokenCheckpoint
from secateur.evaluation.corpus_perplexity import evaluate
from secateur.model.architecture import Architecture
from secateur.prune.surgery import build_slim_model
from secateur.space.costs.parameters import count_parameters


class Quiet:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, name: str, total: int) -> None: ...

    def step(self, note: str = "", count: int = 1) -> None: ...

    def message(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, english: str) -> tuple[Path, Path]:
    """A longer and a shorter corpus."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "z.txt").write_text(english[:9_000])
    (folder / "a.txt").write_text(english[40_000:40_300])
    return folder / "z.txt", folder / "a.txt"


def slim_of(dense: Path, out: Path) -> Path:
    """A slim checkpoint with the part of its record that evaluation reads."""
    source = open_source(dense)
    model = build_slim_model(
        BlockLibrary(source.load_model(), None, torch.float32), Architecture((2, 0, 1), (64, 192, 0))
    )
    record = {
        "model": {
            "reference": str(dense),
            "path": str(dense.absolute()),
            "fingerprint": source.fingerprint,
        }
    }
    export(model, source, out, None, torch.float32)
    (out / "secateur.json").write_text(json.dumps(record))
    return out


def measure(model: Path, corpus: object, quiet: Quiet | None = None, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"window": 32, "windows": 10, "dtype": "float32"} | changes
    return evaluate(
        EvaluateOptions(str(model), tuple(str(corpus).split(",")) if corpus else (), **options),
        quiet or Quiet(),
    )


def judged(model: Path, text: Path, window: int, limit: int) -> float:
    """Perplexity by the protocol, with transformers alone."""
    stream = AutoTokenizer.from_pretrained(model)(text.read_text(), add_special_tokens=False)["input_ids"]
    count = min(limit, len(stream) // window)
    windows = torch.tensor(stream[: count * window]).view(count, window)
    judge = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        return math.exp(float(judge(windows, labels=windows).loss))


class TestProtocol:
    @pytest.mark.parametrize(("window", "windows"), [(32, 10), (8, 3), (100, 1000)])
    def test_is_that_of_transformers(
        self, window: int, windows: int, tiny_qwen2: Path, texts: tuple[Path, Path]
    ) -> None:
        found = measure(tiny_qwen2, texts[0], window=window, windows=windows)
        expected = judged(tiny_qwen2, texts[0], window, windows)
        assert found["perplexity"][str(texts[0])] == pytest.approx(expected, rel=1e-4)

    def test_several_corpora_as_given(self, tiny_llama: Path, texts: tuple[Path, Path]) -> None:
        found = measure(tiny_llama, f"{texts[0]},{texts[1]}", windows=40)
        assert list(found["perplexity"]) == [str(texts[0]), str(texts[1])]
        assert found["windows"][str(texts[0])] == 40 > found["windows"][str(texts[1])] > 0

    def test_bf16_is_near(self, tiny_llama: Path, texts: tuple[Path, Path]) -> None:
        exact, rounded = (
            measure(tiny_llama, texts[0], dtype=dtype)["perplexity"][str(texts[0])]
            for dtype in ("float32", "bfloat16")
        )
        assert rounded == pytest.approx(exact, rel=0.05)


class TestDocument:
    def test_of_a_dense_model(self, tiny_llama: Path, texts: tuple[Path, Path]) -> None:
        found = measure(tiny_llama, texts[0])
        assert found["parameters"] == count_parameters(open_source(tiny_llama).load_model()).to_json()
        assert not {"dense", "slim", "kept"} & set(found)
        assert set(found["seconds"]) == {"evaluate"} and found["dtype"] == "float32"
        json.dumps(found)

    def test_of_a_slim_model_with_its_dense_one(
        self, tiny_llama: Path, texts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        slim = slim_of(tiny_llama, tmp_path / "slim")
        found = measure(slim, texts[0])
        assert found["dense"] == {
            key: measure(tiny_llama, texts[0])[key] for key in ("parameters", "perplexity")
        }
        assert found["slim"]["perplexity"] == found["perplexity"]
        assert found["kept"] == found["slim"]["parameters"]
        dense, kept = found["dense"]["parameters"], found["kept"]
        for kind in ("total", "non_embedding"):
            assert found["kept_fraction"][kind] == pytest.approx(kept[kind] / dense[kind], abs=1e-5)
        assert found["architecture"] == {"groups": [2, 0, 1], "channels": [64, 192, 0]}
        assert found["seconds"].keys() == {"evaluate", "evaluate_dense"}

    def test_without_it(self, tiny_llama: Path, texts: tuple[Path, Path], tmp_path: Path) -> None:
        found = measure(slim_of(tiny_llama, tmp_path / "slim"), texts[0], dense="")
        assert "dense" not in found

    def test_another_dense_one(
        self, tiny_llama: Path, tiny_mistral: Path, texts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        found = measure(slim_of(tiny_llama, tmp_path / "slim"), texts[0], dense=str(tiny_mistral))
        assert found["dense"]["perplexity"] == measure(tiny_mistral, texts[0])["perplexity"]

    @pytest.mark.parametrize("change", ["gone", "edited"])
    def test_a_dense_one_that_is_no_longer_what_it_was(
        self,
        change: str,
        editable: Callable[[Path], Path],
        tiny_llama: Path,
        texts: tuple[Path, Path],
        tmp_path: Path,
    ) -> None:
        dense = editable(tiny_llama)
        slim = slim_of(dense, tmp_path / "slim")
        if change == "gone":
            dense.rename(tmp_path / "elsewhere")
        else:
            weights = dense / "model.safetensors"
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(bytes(content))
        quiet = Quiet()
        assert "dense" not in measure(slim, texts[0], quiet)
        assert len(quiet.said) == 2 and "name it with `dense`" in quiet.said[0]

    def test_through_the_command_line(
        self,
        tiny_llama: Path,
        texts: tuple[Path, Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        slim = slim_of(tiny_llama, tmp_path / "slim")
        options = ["--window", "32", "--windows", "4", "--dtype", "float32", "--json"]
        assert run(["evaluate", str(slim), "--corpus", str(texts[0]), *options]) == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        expected = measure(slim, texts[0], windows=4)
        assert {**found, "seconds": 0} == {**expected, "seconds": 0}
        assert "Traceback" not in printed.err


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"windows": 0}, "windows: got 0"),
            ({"window": 1}, "window: got 1"),
            ({"window": 400}, "shorter than one window of 400"),
            ({"window": 513}, "window: got 513: the model's context is 512"),
            ({"dtype": "fp8"}, "dtype: got fp8"),
            ({"dense": "nowhere"}, "dense: got nowhere"),
        ],
    )
    def test_bad_options(
        self, changes: dict[str, Any], words: str, tiny_llama: Path, texts: tuple[Path, Path]
    ) -> None:
        with pytest.raises(BadInput, match=words) as caught:
            measure(tiny_llama, texts[1], **changes)
        assert "\n" not in str(caught.value)

    def test_a_slim_checkpoint_with_a_tensor_missing(
        self, tiny_llama: Path, texts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        from safetensors.torch import load_file, save_file

        slim = slim_of(tiny_llama, tmp_path / "slim")
        tensors = load_file(slim / "model.safetensors")
        del tensors["model.layers.0.mlp.up_proj.weight"]
        save_file(tensors, slim / "model.safetensors")
        with pytest.raises(BrokenCheckpoint, match=r"model\.layers\.0\.mlp\.up_proj\.weight missing"):
            measure(slim, texts[0])

    @pytest.mark.parametrize("record", ["{", "{}", '{"model": 3}', "[]"])
    def test_a_record_that_cannot_be_read(
        self, record: str, tiny_llama: Path, texts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Evaluation needs it for the dense model only."""
        slim = slim_of(tiny_llama, tmp_path / "slim")
        (slim / "secateur.json").write_text(record)
        quiet = Quiet()
        assert measure(slim, texts[0], quiet)["perplexity"]
        assert "`dense`" in quiet.said[0]
