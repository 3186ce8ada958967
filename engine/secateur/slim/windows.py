"""Which windows of the corpora serve statistics, search and validation: no window serves two of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.calibrate.corpus import Corpus, cut_windows, interleave
from secateur.errors import BadInput
from secateur.model.source import Source
from secateur.slim.options import MIN_WINDOWS, PruneOptions

VALIDATION_WINDOWS = 64


@dataclass(frozen=True)
class Split:
    """Disjoint windows of the corpora, [windows, window] each."""

    statistics: Tensor
    search: Tensor
    validation: Tensor


def require_context(source: Source, window: int) -> None:
    """Check that the model was made for windows that long.

    Raises:
        BadInput: it was not.
    """
    longest = getattr(source.config, "max_position_embeddings", None)
    if longest is not None and window > longest:
        raise BadInput("--window", window, f"the model's context is {longest} tokens")


def require_apart(corpora: tuple[Corpus, ...], reserved: tuple[Corpus, ...]) -> None:
    """Check that validation text is not text that the search sees, by passages of each in the other.

    Raises:
        BadInput: it is.
    """
    for unseen in reserved:
        for seen in corpora:
            if _shared_passages(unseen.text, seen.text) > 1 or _shared_passages(seen.text, unseen.text) > 1:
                raise BadInput("--validation", unseen.name, f"overlaps --corpus {seen.name}")


def _shared_passages(text: str, other: str) -> int:
    """How many of 8 passages of `text` are in `other`; one may be a phrase that everybody writes."""
    starts = (len(text) * eighth // 8 for eighth in range(8))
    return sum(text[start : start + 200] in other for start in starts)


def split_windows(
    source: Source, corpora: tuple[Corpus, ...], reserved: tuple[Corpus, ...], options: PruneOptions
) -> Split:
    """Windows for statistics, for search and for validation, no window in two of them.

    Search windows are spread over the whole text, validation windows are its end (or come from
    corpora of their own).

    Raises:
        BadInput: too little text.
    """
    tokenizer = source.tokenizer()
    windows = interleave([cut_windows(corpus, tokenizer, options.window) for corpus in corpora])
    if len(windows) < MIN_WINDOWS:
        have = f"{len(windows)} windows of {options.window} tokens, at least {MIN_WINDOWS} are needed"
        raise BadInput("--corpus", options.corpus, have)
    if reserved:
        parts = [cut_windows(corpus, tokenizer, options.window, VALIDATION_WINDOWS) for corpus in reserved]
        validation = interleave(parts)[:VALIDATION_WINDOWS]
    else:
        held = min(VALIDATION_WINDOWS, len(windows) // 4)
        windows, validation = windows[:-held], windows[-held:]
    count = min(options.effort.search_windows, max(1, len(windows) // 4))
    chosen = torch.linspace(0, len(windows) - 1, count).round().long()
    rest = torch.ones(len(windows), dtype=torch.bool)
    rest[chosen] = False
    statistics = windows[rest][: options.effort.calibration_tokens // options.window]
    return Split(statistics, windows[chosen], validation)
