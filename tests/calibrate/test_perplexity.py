"""Mean NLL is transformers' own loss, whatever the batching; perplexity never overflows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur.calibrate.perplexity import BATCH_WINDOWS, mean_nll, perplexity
from secateur.checkpoint.source import open_source
from secateur.model.dense import build_model


@pytest.mark.parametrize("count", [1, BATCH_WINDOWS, BATCH_WINDOWS + 5])
def test_is_the_loss_of_transformers(count: int, tiny_model: Path) -> None:
    windows = torch.randint(2, 300, (count, 16), generator=torch.Generator().manual_seed(count))
    judge = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = float(judge(windows, labels=windows).loss)
    source = open_source(tiny_model)
    model = build_model(source.config, source.tensors(), "tiny")
    done: list[int] = []
    assert mean_nll(model, windows, done.append) == pytest.approx(expected, rel=1e-5)
    assert sum(done) == count


def test_perplexity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(35.8)) == pytest.approx(35.8)
    assert perplexity(800.0) == math.inf
    assert perplexity(math.nan) == math.inf
