"""The model card beside a slim checkpoint: what a person wants to know before using it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown with the front matter of a Hugging Face card.

    Args:
        record: the content of ``secateur.json``.
    """
    kept, dense = record["kept"], record["dense"]["parameters"]
    share = kept["non_embedding"] / dense["non_embedding"]
    return f"""---
base_model: {record["model"]["reference"]}
library_name: transformers
pipeline_tag: text-generation
tags: [pruned, secateur]
---

# {record["model"]["reference"]}, pruned to {share:.1%} of its non-embedding parameters

Cut by [Secateur](https://pypi.org/project/secateur) {record["versions"]["secateur"]}: whole KV groups and FFN
channels removed, the rest repaired by least squares. No training.

| | dense | slim |
|---|---|---|
| parameters, non-embedding | {dense["non_embedding"]:,} | {kept["non_embedding"]:,} |
| parameters, total | {dense["total"]:,} | {kept["total"]:,} |
{_perplexity_rows(record)}
Perplexities over non-overlapping windows of {record["window"]} tokens; calibration, search and
validation text are disjoint parts of: {", ".join(record["corpora"])}. The validation text chose among
finalists and how far repair goes. Seed {record["seed"]}.

Widths per layer, evaluated pairs and seconds per stage are in `secateur.json`. {_loading(record)}
"""


def _perplexity_rows(record: Mapping[str, Any]) -> str:
    dense, slim = record["dense"]["perplexity"], record["slim"]["perplexity"]
    return "".join(f"| perplexity, {name} | {dense[name]:.2f} | {slim[name]:.2f} |\n" for name in slim)


def _loading(record: Mapping[str, Any]) -> str:
    if record["layout"] == "stock":
        return "It is the stock architecture: every tool that loads the dense model loads it."
    return (
        "Layers differ in width: load with "
        "`AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)`, "
        "or serve with vLLM where the `secateur` package is installed."
    )
