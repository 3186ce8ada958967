"""The model card beside a slim checkpoint: what a person wants to know before using it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown with the front matter of a Hugging Face card.

    Args:
        record: the content of ``secateur.json``.
    """
    slim, dense = record["kept"], record["dense"]["parameters"]
    share = slim["non_embedding"] / dense["non_embedding"]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{_base_model(record["model"])}tags: [pruned, secateur]
---

# {record["model"]["reference"]}, pruned to {share:.1%} of its non-embedding parameters

Pruned by Secateur {record["versions"]["secateur"]}: whole KV groups and FFN channels were removed
and the remaining weights repaired by least squares. No training.

| | dense | slim |
|---|---|---|
| parameters, non-embedding | {dense["non_embedding"]:,} | {slim["non_embedding"]:,} |
| parameters, total | {dense["total"]:,} | {slim["total"]:,} |
{_perplexity_rows(record)}
Perplexity is measured over non-overlapping windows of {record["window"]} tokens of the validation text.
That text also chose among the finalists and decided how far repair goes. Calibration, search and
validation text are disjoint parts of: {", ".join(record["corpora"])}. Seed: {record["seed"]}.

{_verified(record["verified"])}
`secateur.json` has the width of every layer, all evaluated architectures and the seconds per stage.
{_loading(record)}
"""


def _base_model(model: Mapping[str, Any]) -> str:
    """The line that makes the hub link to the dense model; none where it is not on the hub."""
    reference = model["reference"]
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", reference) and Path(model["path"]) != Path(reference).absolute()
    return f"base_model: {reference}\n" if on_hub else ""


def _perplexity_rows(record: Mapping[str, Any]) -> str:
    dense, slim = record["dense"]["perplexity"], record["slim"]["perplexity"]
    return "".join(f"| perplexity, {name} | {dense[name]:.2f} | {slim[name]:.2f} |\n" for name in slim)


def _verified(verification: Mapping[str, Any]) -> str:
    return (
        f"Transformers {verification['transformers']} opened it without Secateur: its loss on "
        f"{verification['tokens']} tokens of English is {verification['loss']:.4f} there, and "
        f"{verification['engine_loss']:.4f} by Secateur.\n"
    )


def _loading(record: Mapping[str, Any]) -> str:
    if record["layout"] == "stock":
        return "This is the stock architecture: any tool that loads the dense model loads it."
    return (
        "Layers differ in width: load with "
        "`AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)`, "
        "or serve it with vLLM where Secateur is installed."
    )
