"""Whatever model comes in, and in whatever shape it goes out, transformers alone finds the engine's loss.

Over rotary embeddings, families, tied and untied heads, dtypes, kinds of source and shapes: the engine reads
the model that transformers reads from the original folder, and what it writes is the model that was cut.
Transformers runs in another process, without secateur. The fast cases cover every pair of values.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.checkpoint.verification import TOKENS, Verification, verify
from secateur.errors import OutputFailed
from secateur.model.architecture import Architecture
from tests.checkpoint.converter import write_gguf
from tests.checkpoint.test_export import slim_of
from tests.conftest import LLAMAS, PARTICULARS

# Contexts that a window of text is within, and beyond: dynamic scaling and LongRoPE then change.
WITHIN, BEYOND = 2 * TOKENS, TOKENS // 4
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0},
    "longrope": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GGUF_TYPES = {
    "fp32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "fp16": gguf.GGMLQuantizationType.F16,
}
SHAPES = {
    "uniform": Architecture((1, 1, 1), (64, 64, 64)),
    "per-layer": Architecture((2, 1, 2), (64, 192, 128)),
    "no-attention": Architecture((1, 0, 2), (64, 192, 128)),
    "no-ffn": Architecture((2, 1, 2), (64, 0, 128)),
}
CLOSE = 5e-5  # nats; both sides compute in float32


class Model(NamedTuple):
    rope: str
    family: str
    context: int
    head: str
    dtype: str


class Case(NamedTuple):
    """A model, in what form it is given, and what is made of it."""

    rope: str
    family: str
    context: int
    head: str
    dtype: str
    source: str
    shape: str

    @property
    def widths(self) -> Architecture:
        return SHAPES[self.shape]

    @property
    def model(self) -> Model:
        return Model(*self[:5])

    def __str__(self) -> str:
        return "-".join(map(str, self))


def exists(case: Case) -> bool:
    """GGUF has no dynamic scaling, LongRoPE only for Phi, and Llama 3's only for Llamas."""
    in_gguf = ["default", "linear", "yarn"]
    if case.family in ("llama", "mistral"):
        in_gguf.append("llama3")
    return case.source != "gguf" or case.rope in in_gguf


CASES = [
    case
    for values in itertools.product(
        ROPES, LLAMAS, (WITHIN, BEYOND), ("tied", "untied"), DTYPES, ("folder", "shards", "gguf"), SHAPES
    )
    if exists(case := Case(*values))
]


def pairs(case: Case) -> set[Any]:
    return set(itertools.combinations(enumerate(case), 2))


def covering(cases: list[Case]) -> Iterator[Case]:
    """Few of them, in which every pair of values is that is in any of them."""
    draw = random.Random(0)
    missing = set().union(*map(pairs, cases))
    while missing:
        best = max(draw.sample(cases, 60), key=lambda case: len(pairs(case) & missing))
        if found := pairs(best) & missing:
            missing -= found
            yield best


FAST = list(covering(CASES))


Originals = Callable[[Model], Path]


@pytest.fixture(scope="module")
def originals(make_tiny: Callable[..., Path]) -> Originals:
    """The folder of a model, made once."""

    @cache
    def make(model: Model) -> Path:
        folder = make_tiny(
            model.family,
            initializer_range=0.3,
            tie_word_embeddings=model.head == "tied",
            max_position_embeddings=model.context,
            rope_parameters=rope_parameters(model),
        )
        AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[model.dtype]).save_pretrained(folder)
        return folder

    return make


def rope_parameters(model: Model) -> dict[str, Any]:
    parameters = {"rope_type": model.rope, "rope_theta": 10000.0, **ROPES[model.rope]}
    if model.rope in ("yarn", "longrope", "llama3"):
        parameters["original_max_position_embeddings"] = model.context
    if model.rope == "longrope":
        frequencies = PARTICULARS[model.family].get("head_dim", 32) // 2
        parameters |= {"short_factor": [1.0] * frequencies, "long_factor": [2.0] * frequencies}
    return parameters


def in_form(case: Case, original: Path, folder: Path) -> Path:
    """What the engine is given."""
    if case.source == "gguf":
        return write_gguf(original, folder / "dense.gguf", quantised=GGUF_TYPES[case.dtype])
    if case.source == "folder":
        return original
    sharded = shutil.copytree(original, folder / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    save_torch_state_dict(load_file(original / "model.safetensors"), sharded, max_shard_size="300KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    return sharded


def check(case: Case, originals: Originals, folder: Path) -> None:
    original = originals(case.model)
    slim, source = slim_of(in_form(case, original, folder), case.widths)
    assert_close(verify(original, source.load_model(), source))
    assert_close(export(slim, source, folder / "slim", None, DTYPES[case.dtype]))


def assert_close(found: Verification) -> None:
    assert found.tokens == TOKENS
    assert abs(found.loss - found.engine_loss) < CLOSE


@pytest.mark.parametrize("case", FAST, ids=str)
def test_every_pair(case: Case, originals: Originals, tmp_path: Path) -> None:
    check(case, originals, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", LLAMAS)
@pytest.mark.parametrize("rope", ROPES)
def test_all(rope: str, family: str, originals: Originals, tmp_path: Path) -> None:
    for number, case in enumerate(case for case in CASES if case[:2] == (rope, family)):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            check(case, originals, folder)
        except Exception as error:
            raise AssertionError(str(case)) from error
        shutil.rmtree(folder)


def test_a_wrong_rotary_embedding_is_another_loss(originals: Originals) -> None:
    """So the cases above can fail: without its scaling, every model is another one."""
    for context, ropes in ((WITHIN, ("linear", "yarn", "llama3")), (BEYOND, list(ROPES)[1:])):
        plain = Model("default", "llama", context, "untied", "fp32")
        expected = open_source(originals(plain)).load_model()
        for rope in ropes:
            source = open_source(originals(plain._replace(rope=rope)))
            with pytest.raises(OutputFailed, match="another model"):
                verify(originals(plain._replace(rope=rope)), expected, source)
