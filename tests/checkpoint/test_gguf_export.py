"""A model written as GGUF is the same model to llama.cpp: its tokens, its log probabilities, its greedy text.

Shapes are uniform, per layer, and with whatever may be removed; also those of which llama.cpp would drop a
part. The reading back by our own reader proves less, and is fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.gguf_export import DTYPES, UNIFORM, gguf_model, write_gguf
from secateur.checkpoint.gguf_tokenizer import PRE_TOKENIZERS
from secateur.checkpoint.source import ModelSource, open_source
from secateur.checkpoint.transformers_module import transformers_module
from secateur.cli.commands import run
from secateur.errors import UnsupportedModel
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.prune.surgery import build_slim_model
from tests.checkpoint.llama_cpp import answers
from tests.checkpoint.test_export import slim_of
from tests.conftest import VOCABULARY

MISSING = "llama.cpp is not installed: pip install '.[dev]'"
TEXTS = ["The class statement, 1234 of them:\n\n  don't 'stop' ", "ü–漢字 x = f(y)<|endoftext|>"]
SHAPES = {
    "dense": Architecture((2, 2, 2), (192, 192, 192)),
    "uniform": Architecture((1, 1, 1), (64, 64, 64)),
    "layer-removed": Architecture((1, 0, 1), (64, 0, 64)),
    "widths-differ": Architecture((2, 1, 2), (64, 192, 128)),
    "only-channels-differ": Architecture((2, 2, 2), (64, 192, 128)),
    "first-without-attention": Architecture((0, 1, 2), (64, 192, 128)),
    "later-without-attention": Architecture((2, 0, 1), (64, 192, 128)),
    "without-ffn": Architecture((2, 1, 2), (0, 64, 128)),
    "last-without-ffn": Architecture((2, 1, 2), (64, 96, 0)),
    "all-at-once": Architecture((0, 2, 0), (64, 0, 0)),
}
# Of log probabilities. Before a product with bf16 or f16 weights, llama.cpp rounds activations to that too.
CLOSE = {"f32": 2e-4, "f16": 0.01, "bf16": 0.06}
REAL_CLOSE = 0.3


def written(
    folder: Path, shape: Architecture, file: Path, dtype: str = "f32", rounded: torch.dtype = torch.float32
) -> tuple[DecoderModel, ModelSource, str]:
    """What was written, and llama.cpp's name of its architecture."""
    model, source = slim_of(folder, shape)
    model = model.to(rounded)
    shaped = gguf_model(model, folder)
    write_gguf(shaped, source, file, dtype)
    return model, source, shaped.architecture


def assert_llama_cpp_agrees(model: DecoderModel, source: ModelSource, file: Path, close: float) -> None:
    pytest.importorskip("xllamacpp", reason=MISSING)
    module = transformers_module(model.to(torch.float32))
    for text, answer in zip(TEXTS, answers(file, TEXTS, steps=8), strict=True):
        assert answer["tokens"] == source.tokenizer()(text)["input_ids"]
        tokens = torch.tensor([answer["tokens"]])
        with torch.inference_mode():
            expected = module(tokens).logits[0].log_softmax(-1)
            text_after = module.generate(tokens, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        found = torch.tensor(answer["log_probabilities"])
        assert float((found - expected).abs().max()) < close
        assert answer["greedy"] == text_after[0, tokens.shape[1] :].tolist()


class TestLlamaCpp:
    @pytest.mark.parametrize("shape", ["uniform", "all-at-once"])
    def test_llama(self, shape: str, tiny_llama: Path, tmp_path: Path) -> None:
        model, source, _ = written(tiny_llama, SHAPES[shape], tmp_path / "slim.gguf")
        assert_llama_cpp_agrees(model, source, tmp_path / "slim.gguf", CLOSE["f32"])

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("family", UNIFORM)
    def test_every_shape(
        self, family: str, shape: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        folder = request.getfixturevalue(f"tiny_{family}")
        model, source, _ = written(folder, SHAPES[shape], tmp_path / "slim.gguf")
        assert_llama_cpp_agrees(model, source, tmp_path / "slim.gguf", CLOSE["f32"])

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["bf16", "f16"])
    def test_half_precision(self, dtype: str, tiny_llama: Path, tmp_path: Path) -> None:
        file = tmp_path / "slim.gguf"
        model, source, _ = written(tiny_llama, SHAPES["all-at-once"], file, dtype, DTYPES[dtype])
        assert_llama_cpp_agrees(model, source, file, CLOSE[dtype])

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", ["uniform", "widths-differ"])
    @pytest.mark.parametrize(
        "rope",
        [
            {"rope_type": "linear", "factor": 4.0},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "original_max_position_embeddings": 8},
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            },
        ],
        ids=lambda rope: f"{rope['rope_type']}{len(rope)}",
    )
    def test_rotary_scaling(
        self, rope: dict[str, Any], shape: str, make_tiny: Callable[..., Path], tmp_path: Path
    ) -> None:
        folder = make_tiny("llama", rope_parameters={"rope_theta": 10000.0, **rope})
        model, source, _ = written(folder, SHAPES[shape], tmp_path / "slim.gguf")
        assert_llama_cpp_agrees(model, source, tmp_path / "slim.gguf", CLOSE["f32"])

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", ["uniform", "widths-differ"])
    def test_biases_everywhere(self, shape: str, make_tiny: Callable[..., Path], tmp_path: Path) -> None:
        folder = make_tiny("llama", attention_bias=True, mlp_bias=True)
        model, source, _ = written(folder, SHAPES[shape], tmp_path / "slim.gguf")
        assert_llama_cpp_agrees(model, source, tmp_path / "slim.gguf", CLOSE["f32"])

    @pytest.mark.slow
    @pytest.mark.parametrize("steps", list(PRE_TOKENIZERS), ids=PRE_TOKENIZERS.get)
    def test_every_tokenizer(
        self, steps: Any, tiny_llama: Path, editable: Callable[[Path], Path], english: str, tmp_path: Path
    ) -> None:
        """Of each kind one, trained on the spot: llama.cpp splits by the rule of that name."""
        pytest.importorskip("xllamacpp", reason=MISSING)
        folder = editable(tiny_llama)
        tokenizer_of(steps, english).save_pretrained(folder)
        _, source, _ = written(folder, SHAPES["uniform"], tmp_path / "slim.gguf")
        texts = [
            *TEXTS,
            english[5_000:5_500],
            "1 12 123 1234 12345\r\n\r\n\t\t x  \n ÀÉ ñandú HTTPServer's WE'LL",
        ]
        tokenizer = source.tokenizer()
        for text, answer in zip(
            texts, answers(tmp_path / "slim.gguf", texts, every_token=False), strict=True
        ):
            assert answer["tokens"] == tokenizer(text)["input_ids"], text

    @pytest.mark.slow
    @pytest.mark.parametrize("start", ["bos", "none"])
    def test_tokens_around_a_text(
        self, start: str, tiny_llama: Path, editable: Callable[[Path], Path], tmp_path: Path
    ) -> None:
        pytest.importorskip("xllamacpp", reason=MISSING)
        folder = editable(tiny_llama)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if start == "bos":
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 0)]
            )
        tokenizer.save(str(folder / "tokenizer.json"))
        _, source, _ = written(folder, SHAPES["uniform"], tmp_path / "slim.gguf")
        (answer,) = answers(tmp_path / "slim.gguf", ["abc"], every_token=False)
        assert answer["tokens"] == source.tokenizer()("abc")["input_ids"]
        assert (answer["tokens"][0] == 0) is (start == "bos")

    @pytest.mark.slow
    def test_the_real_model(self, smollm2: ModelSource, tmp_path: Path) -> None:
        """Cut at random places, then repaired by nothing: what it says is poor, and the same."""
        pytest.importorskip("xllamacpp", reason=MISSING)
        dense = smollm2.load_model()
        groups = tuple((3, 2, 3, 1, 3)[layer % 5] if layer != 20 else 0 for layer in range(30))
        channels = tuple((1536, 1024, 1504)[layer % 3] if layer != 25 else 0 for layer in range(30))
        library = BlockLibrary(dense, None, torch.float32)
        model = build_slim_model(library, Architecture(groups, channels)).to(torch.bfloat16)
        file = tmp_path / "slim.gguf"
        write_gguf(gguf_model(model, "slim"), smollm2, file, "bf16")
        prompts = ["Once upon a time", "The capital of France is", "def fibonacci(n):"]
        module = transformers_module(model.to(torch.float32))
        for prompt, answer in zip(prompts, answers(file, prompts, steps=24, every_token=False), strict=True):
            tokens = smollm2.tokenizer()(prompt, return_tensors="pt")["input_ids"]
            assert answer["tokens"] == tokens[0].tolist()
            with torch.inference_mode():
                expected = module(tokens).logits[0, -1].log_softmax(-1)
                text = module.generate(tokens, max_new_tokens=24, min_new_tokens=24, do_sample=False)
            found = torch.tensor(answer["log_probabilities"][-1])
            assert float((found - expected).abs().max()) < REAL_CLOSE
            assert answer["greedy"] == text[0, tokens.shape[1] :].tolist()


@pytest.mark.parametrize("family", UNIFORM)
def test_our_own_reader_finds_every_bit(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(f"tiny_{family}")
    _, source, architecture = written(folder, SHAPES["dense"], tmp_path / "dense.gguf")
    read = open_source(tmp_path / "dense.gguf")
    assert architecture == {"mistral": "llama"}.get(family, family)
    expected, found = source.tensors(), read.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read.config.rope_parameters == source.config.rope_parameters
    assert read.config.max_position_embeddings == source.config.max_position_embeddings
    assert read.tokenizer()(TEXTS[0])["input_ids"] == source.tokenizer()(TEXTS[0])["input_ids"]


@pytest.mark.parametrize(
    ("family", "changes", "shape", "words"),
    [
        ("mistral", {"sliding_window": 64}, "dense", "attention within 64 tokens"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "dense",
            "dynamic",
        ),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "attention_factor": 1.5,
                }
            },
            "dense",
            "YaRN's attention_factor",
        ),
        ("qwen3", {"tie_word_embeddings": False}, "widths-differ", "a head of its own"),
        ("qwen3", {"attention_bias": True}, "widths-differ", "biases in a qwen3"),
    ],
)
def test_what_llama_cpp_has_nothing_for(
    family: str,
    changes: dict[str, Any],
    shape: str,
    words: str,
    make_tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(UnsupportedModel, match=words) as caught:
        written(make_tiny(family, **changes), SHAPES[shape], tmp_path / "slim.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_know(
    change: dict[str, Any], tiny_llama: Path, editable: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = editable(tiny_llama)
    description = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**description, **change}))
    with pytest.raises(UnsupportedModel, match="has no name for"):
        written(folder, SHAPES["dense"], tmp_path / "slim.gguf")


class TestCommand:
    def test_writes(self, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "new" / "m.gguf"
        assert run(["export", str(tiny_llama), "--gguf", str(file), "--dtype", "f16", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document == {"out": str(file), "format": "GGUF, llama, f16", "bytes": file.stat().st_size}
        assert [path.name for path in file.parent.iterdir()] == ["m.gguf"]

    def test_nothing_is_left_of_what_fails(
        self, extended_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["export", str(extended_tokenizer), "--gguf", str(tmp_path / "m.gguf")]) == 2
        assert "llama.cpp has no name for" in capsys.readouterr().err
        assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*"))


@pytest.fixture
def extended_tokenizer(tiny_llama: Path, editable: Callable[[Path], Path]) -> Path:
    """A model whose tokenizer llama.cpp does not know."""
    folder = editable(tiny_llama)
    description = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(
        json.dumps({**description, "pre_tokenizer": {"type": "Whitespace"}})
    )
    return folder


def tokenizer_of(key: Any, english: str) -> PreTrainedTokenizerFast:
    """A tokenizer that splits text in those steps, as keys of `PRE_TOKENIZERS` name them."""
    steps, takes_words = key
    kinds: dict[str, Callable[..., Any]] = {
        "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "bytes": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "digits": lambda: pre_tokenizers.Digits(individual_digits=True),
        "split": lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated"),
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=takes_words))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([kinds[name](*pattern) for name, *pattern in steps])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(english.splitlines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>")
