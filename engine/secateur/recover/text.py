"""Windows of text to train on, and windows apart from them that choose.

Shape suffixes: W windows, B windows of a step, T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.corpus import Corpus, CorpusFiles, cut_windows, interleave, read_corpora
from secateur.config.prune import SELF_CORPUS
from secateur.config.recover import RecoverOptions
from secateur.errors import BadInput
from secateur.prune.windows import check_disjoint

MIN_WINDOWS = 8


@dataclass(frozen=True)
class RecoveryText:
    """What is trained on, and what chooses.

    Attributes:
        training_WT, validation_WT: windows of token ids, int64; disjoint.
        corpora: names of what was read.
        validation: the name that results on `validation_WT` are kept under.
        contents: of each corpus, what was read.
        digests: of each corpus, the identity of its text.
    """

    training_WT: Tensor
    validation_WT: Tensor
    corpora: tuple[str, ...]
    validation: str
    contents: dict[str, dict[str, int]]
    digests: dict[str, str]

    def indices(self, step: int, batch: int, seed: int) -> Tensor:
        """The training windows of a step, [B]: each once before any comes again, in an order of chance."""
        count = len(self.training_WT)
        first = step * batch
        found: list[int] = []
        while len(found) < batch:
            epoch, start = divmod(first + len(found), count)
            chance = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(count, generator=chance)
            found += order[start : start + batch - len(found)].tolist()
        return torch.tensor(found)


def read_text(
    options: RecoverOptions, tokenizer: Any, write_self: Callable[[], Corpus], say: Callable[[str], None]
) -> RecoveryText:
    """Read, render and cut the corpora.

    Args:
        write_self: has the dense model write its corpus.
        say: is told what was read, a line each.

    Raises:
        BadInput: a corpus that cannot be read, too little text, or validation text that is trained on.
    """
    files = read_corpora(options.corpus, with_self=True)
    reserved_files = read_corpora(options.validation) if options.validation else ()
    corpora = [_rendered(each, tokenizer, write_self) for each in files]
    reserved = [each.rendered(tokenizer) for each in reserved_files]
    check_disjoint(tuple(each for each in corpora if each.name != SELF_CORPUS), tuple(reserved))
    parts = {each.name: cut_windows(each, tokenizer, options.window) for each in corpora}
    if reserved:
        limit = options.validation_windows
        apart = {each.name: cut_windows(each, tokenizer, options.window, limit) for each in reserved}
        training = list(parts.values())
    else:
        share = max(1, options.validation_windows // len(parts))
        held = {name: min(share, len(part) // 4) for name, part in parts.items()}
        apart = {name: part[len(part) - held[name] :] for name, part in parts.items() if held[name]}
        training = [part[: len(part) - held[name]] for name, part in parts.items()]
    if sum(map(len, training)) < MIN_WINDOWS or not apart:
        have = f"{sum(map(len, parts.values()))} windows of {options.window} tokens"
        raise BadInput("corpus", ",".join(options.corpus), f"{have}, at least {MIN_WINDOWS + 4} are needed")
    tokens = {name: part.numel() for name, part in (parts | apart).items()} | {
        name: part.numel() for name, part in parts.items()
    }
    every = [*corpora, *reserved]
    for corpus in every:
        say(corpus.describe(tokens[corpus.name]))
    return RecoveryText(
        torch.cat(training),
        interleave(list(apart.values()))[: options.validation_windows],
        options.corpus,
        ",".join(options.validation) or "validation",
        {corpus.name: corpus.contents(tokens[corpus.name]) for corpus in every},
        {corpus.name: corpus.digest for corpus in every},
    )


def _rendered(files: CorpusFiles, tokenizer: Any, write_self: Callable[[], Corpus]) -> Corpus:
    return write_self() if files.name == SELF_CORPUS else files.rendered(tokenizer)
