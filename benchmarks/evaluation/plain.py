"""What a user would do instead: copy and cut the transformers model, run it, take its cross-entropy."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.transformers_module import transformers_module
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderLayer

BATCH_WINDOWS = 4


@dataclass(frozen=True)
class PlainRun:
    """One candidate the plain way: NLL of each window, seconds to build the module and to run it."""

    nll: tuple[float, ...]
    build_seconds: float
    run_seconds: float


@torch.inference_mode()
def run(library: BlockLibrary, candidate: Architecture, windows_BT: Tensor) -> PlainRun:
    """Evaluate one candidate; the repaired projections come ready-made out of the library's cache."""
    layers = tuple(
        DecoderLayer(
            library.block(index, "attention", candidate.groups[index]),  # type: ignore[arg-type]
            library.block(index, "ffn", candidate.channels[index]),  # type: ignore[arg-type]
        )
        for index in range(candidate.num_layers)
    )
    started = time.perf_counter()
    module = transformers_module(replace(library.model, layers=layers))
    built = time.perf_counter()
    losses: list[float] = []
    for tokens_BT in windows_BT.split(BATCH_WINDOWS):
        logits_NV = module(tokens_BT).logits[:, :-1].float().flatten(0, 1)
        nll_N = functional.cross_entropy(logits_NV, tokens_BT[:, 1:].flatten(), reduction="none")
        losses += nll_N.unflatten(0, (len(tokens_BT), -1)).double().mean(1).tolist()
    return PlainRun(tuple(losses), built - started, time.perf_counter() - built)
