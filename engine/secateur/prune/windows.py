"""Which windows of the corpora serve statistics, repair, search and validation."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from secateur.calibrate.corpus import Corpus, cut_windows, interleave
from secateur.checkpoint.source import ModelSource
from secateur.config.prune import MIN_WINDOWS, PruneOptions
from secateur.errors import BadInput


@dataclass(frozen=True)
class WindowSplit:
    """Windows of the corpora, [windows, window] each; disjoint, but for `repair` where text is short.

    Attributes:
        statistics: units are ranked, and sub-blocks repaired one by one, on these.
        repair: sub-blocks are repaired in sequence on these: windows that `statistics` does not have, as
            far as there are such, so that the second fit sees where the first has learnt by heart.
        search: every candidate is measured on these.
        validation: finalists and repairs are chosen on these.
        tokens: of each corpus, by name, how many were cut into windows.
    """

    statistics: Tensor
    repair: Tensor
    search: Tensor
    validation: Tensor
    tokens: Mapping[str, int]


def check_disjoint(corpora: tuple[Corpus, ...], reserved: tuple[Corpus, ...]) -> None:
    """Check that validation text is not text that the search sees, by passages of each in the other.

    Raises:
        BadInput: it is.
    """
    for unseen in reserved:
        for search_corpus in corpora:
            if (
                _shared_passages(unseen.text, search_corpus.text) > 1
                or _shared_passages(search_corpus.text, unseen.text) > 1
            ):
                raise BadInput("validation", unseen.name, f"overlaps `corpus` {search_corpus.name}")


def _shared_passages(text: str, other: str) -> int:
    """How many of 8 passages of `text` are in `other`; one may be a phrase that everybody writes."""
    starts = (len(text) * eighth // 8 for eighth in range(8))
    return sum(text[start : start + 200] in other for start in starts)


def split_windows(
    source: ModelSource, corpora: tuple[Corpus, ...], reserved: tuple[Corpus, ...], options: PruneOptions
) -> WindowSplit:
    """The windows for each purpose (`WindowSplit`).

    Validation windows are the end of the text, or come from corpora of their own; all others are spread
    over the rest.

    Raises:
        BadInput: too little text.
    """
    tokenizer = source.tokenizer()
    reads = options.evaluation_budget
    parts = {corpus.name: cut_windows(corpus, tokenizer, options.window) for corpus in corpora}
    windows = interleave(list(parts.values()))
    if len(windows) < MIN_WINDOWS:
        have = f"{len(windows)} windows of {options.window} tokens, at least {MIN_WINDOWS} are needed"
        raise BadInput("corpus", ",".join(options.corpus), have)
    if reserved:
        unseen = {
            corpus.name: cut_windows(corpus, tokenizer, options.window, reads.validation_windows)
            for corpus in reserved
        }
        validation = interleave(list(unseen.values()))[: reads.validation_windows]
        parts |= unseen
    else:
        num_validation = min(reads.validation_windows, len(windows) // 4)
        windows, validation = windows[:-num_validation], windows[-num_validation:]
    search, rest = _spread(windows, min(reads.search_windows, max(1, len(windows) // 4)))
    statistics, fresh = _spread(rest, reads.calibration_tokens // options.window)
    fitted = reads.repair_tokens // options.window
    repair, _ = _spread(fresh, fitted)
    in_sample_windows, _ = _spread(statistics, fitted - len(repair))
    tokens = {name: part.numel() for name, part in parts.items()}
    return WindowSplit(statistics, torch.cat([repair, in_sample_windows]), search, validation, tokens)


def _spread(windows_BT: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most so many windows from all over the text, and the others; both in the order of the text.

    One of each stretch at random: every n-th would take one of two interleaved corpora alone.
    """
    count = min(count, len(windows_BT))
    edges = [stretch * len(windows_BT) // count for stretch in range(count + 1)] if count else []
    chance = random.Random(0)
    chosen = torch.zeros(len(windows_BT), dtype=torch.bool)
    chosen[[chance.randrange(start, end) for start, end in pairwise(edges)]] = True
    return windows_BT[chosen], windows_BT[~chosen]
