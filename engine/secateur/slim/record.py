"""The record of a pruning run: what `secateur.json` says and ``--json`` prints."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from secateur import __version__
from secateur.calibrate.corpus import Corpus
from secateur.model.dense import Model
from secateur.model.source import Source
from secateur.search.budget import Budget, ParameterCount, count_parameters
from secateur.search.search import Search
from secateur.search.study import Pair, Study
from secateur.slim.configuration_secateur import SecateurConfig
from secateur.slim.export import describe, weight_bytes
from secateur.slim.options import PruneOptions


def build_record(
    options: PruneOptions,
    source: Source,
    model: Model,
    slim: Model,
    budget: Budget,
    winner: Pair,
    study: Study,
    search: Search,
    corpora: tuple[Corpus, ...],
    stored: torch.dtype,
) -> dict[str, Any]:
    """Everything worth knowing about a pruning run but its perplexities and seconds."""
    dense_count, slim_count = count_parameters(model), count_parameters(slim)
    config, _ = describe(slim)
    return {
        "model": {
            "reference": options.model,
            "path": str(source.path.absolute()),
            "fingerprint": source.fingerprint,
        },
        "out": str(options.out),
        "parameters": dense_count.to_json(),
        "kept": slim_count.to_json(),
        "kept_fraction": _fraction(slim_count, dense_count),
        "budget": {
            "kind": options.budget,
            "keep": options.keep,
            "limit": budget.limit,
            "unit": budget.cost.unit,
        },
        "architecture": winner.architecture.to_json(),
        "layout": "per-layer" if config.model_type == SecateurConfig.model_type else "stock",
        "dense": {
            "parameters": dense_count.to_json(),
            "memory_bytes": weight_bytes(model, stored),
            "perplexity": {},
        },
        "slim": {
            "parameters": slim_count.to_json(),
            "memory_bytes": weight_bytes(slim, stored),
            "perplexity": {},
        },
        "search": {
            "kl": winner.measurement.kl,
            "kl_stderr": winner.measurement.kl_stderr,
            "origin": winner.origin,
            "pairs": len(study.pairs),
            "evaluations": sum(pair.round > 0 for pair in study.pairs.values()),
            "sampler": options.sampler,
            "predictor": search.choice.predictor.name if search.choice else None,
            "predictor_quality": _quality(search),
        },
        "seed": options.seed,
        "window": options.window,
        "corpora": [corpus.name for corpus in corpora],
        "corpus_digests": {corpus.name: corpus.digest for corpus in corpora},
        "calibration_tokens": options.calibration_tokens,
        "criterion": options.criterion,
        "dtype": str(stored).removeprefix("torch."),
        "versions": _versions(),
    }


def _quality(search: Search) -> dict[str, dict[str, float]]:
    """Cross-validated rank quality of every regressor tried, best first; empty with too few pairs."""
    quality = search.choice.quality if search.choice else {}
    return {name: {"tau": found.tau, "top_10_recall": found.recall} for name, found in quality.items()}


def _fraction(slim: ParameterCount, dense: ParameterCount) -> dict[str, float]:
    return {
        "total": round(slim.total / dense.total, 5),
        "non_embedding": round(slim.non_embedding / dense.non_embedding, 5),
    }


def _versions() -> dict[str, str]:
    return {
        "secateur": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "optuna")},
    }
