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
and the remaining weights repaired by least squares. {_training(record)}
{_lineage(record["model"])}
| | dense | slim |
|---|---|---|
| parameters, non-embedding | {dense["non_embedding"]:,} | {slim["non_embedding"]:,} |
| parameters, total | {dense["total"]:,} | {slim["total"]:,} |
{_perplexity_rows(record)}
Perplexity is measured over non-overlapping windows of {record["window"]} tokens of the validation text.
{_text(record)} Seed: {record["seed"]}.

{_verified(record["verified"])}
`secateur.json` has the width of every layer, all evaluated architectures and the seconds per stage.
{_loading(record)}
"""


def _lineage(model: Mapping[str, Any]) -> str:
    """The models that it was cut from, one after the other."""
    lines = []
    while earlier := model.get("cut_from"):
        share = earlier["kept_fraction"]["non_embedding"]
        lines.append(f"{model['reference']} was itself pruned, from {earlier['reference']} to {share:.1%}.\n")
        model = earlier
    return "".join(lines)


def _training(record: Mapping[str, Any]) -> str:
    if "recovery" not in record:
        return "No training."
    told = record["recovery"]
    return f"""Then it was
recovered with {told["tokens"]:,} tokens in {told["steps"]:,} steps: it learnt the dense model's
next-token distributions (forward KL; trained: {told["train"]}) on {", ".join(told["corpora"])}."""


def _text(record: Mapping[str, Any]) -> str:
    if "recovery" not in record:
        return f"""That text also chose among the finalists and decided how far repair goes. Calibration,
search and validation text are disjoint parts of: {", ".join(record["corpora"])}."""
    told = record["recovery"]
    (before,) = told["input"]["perplexity"].values()
    return f"""That text also chose among the steps of the training, and is apart from what was trained on.
Before recovery the perplexity was {before:.2f}."""


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
