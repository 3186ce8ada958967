"""The protocol of a study in words: what its numbers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "not recorded"


def protocol_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, in the order of a reader."""
    protocol = document["protocol"]
    return [
        ("model", _model(protocol)),
        ("dense parameters", _parameters(protocol["parameters"])),
        ("dense perplexity", _perplexity(protocol)),
        ("goals", _goals(document["goals"])),
        ("corpora", _listed(protocol["corpora"])),
        ("search text", _search_text(protocol)),
        ("calibration", _calibration(protocol)),
        ("search", _search(protocol)),
        ("seed", _shown(protocol["seed"])),
        ("compute dtype", _shown(protocol["compute_dtype"]).removeprefix("torch.")),
        ("machine", _listed(protocol["machine"])),
        ("versions", _listed(protocol["versions"])),
    ]


def _model(protocol: Mapping[str, Any]) -> str:
    widest = protocol["widest"]
    shape = f"{protocol['layers']} layers, {widest['groups']} KV groups, {widest['channels']} FFN channels"
    mark = f", fingerprint {str(protocol['fingerprint'])[:12]}" if protocol["fingerprint"] else ""
    return f"{_shown(protocol['model'])} ({shape}{mark})"


def _parameters(count: Mapping[str, int] | None) -> str:
    return f"{count['non_embedding']:,} non-embedding, {count['total']:,} in all" if count else UNKNOWN


def _perplexity(protocol: Mapping[str, Any]) -> str:
    if protocol["dense_nll"] is None:
        return UNKNOWN
    return (
        f"{protocol['dense_perplexity']:.2f} on the search text ({protocol['dense_nll']:.4f} nats per token)"
    )


def _goals(goals: list[Mapping[str, Any]]) -> str:
    return "; ".join(goal["name"] + _limits(goal["limits"]) for goal in goals)


def _limits(limits: list[Mapping[str, Any]]) -> str:
    limit_texts = [f"at most {limit['limit']:,} {limit['unit']}" for limit in limits]
    return f" ({' and '.join(limit_texts)})" if limit_texts else ""


def _search_text(protocol: Mapping[str, Any]) -> str:
    windows, window = _shown(protocol["search_windows"]), _shown(protocol["window"])
    return f"{protocol['search_tokens']:,} predicted tokens: {windows} windows of {window} tokens"


def _calibration(protocol: Mapping[str, Any]) -> str:
    tokens = protocol["calibration_tokens"]
    amount = f"{tokens:,} tokens at most" if tokens is not None else UNKNOWN
    criterion = f", ranked by {protocol['criterion']}" if protocol["criterion"] else ""
    return amount + criterion


def _search(protocol: Mapping[str, Any]) -> str:
    search_texts = [f"{name} {protocol[name]}" for name in ("sampler", "predictor") if protocol[name]]
    if protocol["quantum"]:
        search_texts.append(f"channels in multiples of {protocol['quantum']}")
    return ", ".join(search_texts) or UNKNOWN


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_listed(item)}" for key, item in value.items()) or UNKNOWN
    if isinstance(value, list | tuple):
        return ", ".join(_listed(item) for item in value) or "none"
    return _shown(value)


def _shown(value: Any) -> str:
    return UNKNOWN if value is None else str(value)
