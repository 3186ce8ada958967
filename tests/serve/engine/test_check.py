"""What makes an engine unfit: weights that are not the checkpoint's, answers that do not agree."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.serve.engine.check import EMPTY_DIGEST, answers_agree, check_engine, compare_weights
from secateur.serve.failures import RpcError


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


@pytest.fixture
def held(tiny_llama: Path) -> dict[str, torch.Tensor]:
    """The tensors as an engine on a GPU keeps them: in bfloat16, some as one, the vocabulary padded."""
    stored = {name: t.bfloat16() for name, t in load_file(tiny_llama / "model.safetensors").items()}
    attention, ffn = "model.layers.0.self_attn.", "model.layers.0.mlp."
    whole = {name: tensor for name, tensor in stored.items() if ".layers." not in name or "norm" in name}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        whole[name] = torch.cat([stored[name], stored[name].new_zeros(20, 128)])
    whole[f"{attention}qkv_proj.weight"] = torch.cat([stored[f"{attention}{x}_proj.weight"] for x in "qkv"])
    whole[f"{ffn}gate_up_proj.weight"] = torch.cat([stored[f"{ffn}{x}_proj.weight"] for x in ("gate", "up")])
    whole[f"{ffn}down_proj.weight"] = stored[f"{ffn}down_proj.weight"]
    return whole


def test_equal_weights(tiny_llama: Path, held: dict[str, torch.Tensor]) -> None:
    digests = {name: digest(tensor) for name, tensor in held.items()}
    repacked = {"model.layers.1.mlp.down_proj.weight": EMPTY_DIGEST, "some.scale": "1234"}
    assert compare_weights(digests | repacked, tiny_llama, "bfloat16") == ([], len(held), 2)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.qkv_proj.weight", "model.embed_tokens.weight"])
def test_one_number_that_differs(tiny_llama: Path, held: dict[str, torch.Tensor], name: str) -> None:
    held[name][3, 5] += 0.01
    digests = {name: digest(tensor) for name, tensor in held.items()}
    assert compare_weights(digests, tiny_llama, "bfloat16") == ([name], len(held) - 1, 0)


class Answers:
    """An engine with prepared answers and scores."""

    max_model_len, dtype = 512, "float32"

    def __init__(self, answers: list[list[tuple[int, float]]], scores: list[float]) -> None:
        self.answers, self.scores = answers, scores

    async def tokenize(self, text: str) -> list[int]:
        return [1, 2, 3]

    async def answer(self, prompt: list[int], length: int) -> list[tuple[int, float]]:
        return self.answers.pop(0)

    async def score(self, tokens: list[int]) -> list[float]:
        return self.scores

    async def weight_digests(self) -> None:
        return None


GOOD = [(7, -1.0), (8, -2.0)]


@pytest.mark.parametrize(
    ("second", "scores", "complaint"),
    [
        ([(7, -1.0), (9, -2.0)], [-1.0, -2.0], None),  # a tie
        (GOOD, [-9.0, -1.1, -2.05], None),  # what comes before the answer does not matter
        ([(7, math.nan), (8, -2.0)], [-1.0, -2.0], "not finite"),
        ([(6, -3.0), (8, -2.0)], [-1.0, -2.0], "answers to the golden prompt differ"),
        (GOOD, [-1.0, -4.0], "scores 2 off"),
        (GOOD, [-1.0, math.nan], "scores nan off"),
    ],
)
async def test_answers(tmp_path: Path, second: Any, scores: list[float], complaint: str | None) -> None:
    engine: Any = Answers([GOOD, second], scores)
    if complaint is None:
        assert (await check_engine(engine, tmp_path)).golden_tokens == 2
    else:
        with pytest.raises(RpcError, match=complaint) as refusal:
            await check_engine(engine, tmp_path)
        assert refusal.value.reason == "ENGINE_UNFIT"


def test_answers_agree_up_to_a_tie() -> None:
    assert answers_agree(GOOD, GOOD)
    assert answers_agree(GOOD, [(5, -1.1), (6, -9.0)])
    assert not answers_agree(GOOD, [(7, -1.0), (8, -3.0)])
