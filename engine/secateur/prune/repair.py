"""Repair of slim models: one-shot as the library cuts them, and how far from there towards a fit in sequence.

A fit in sequence undoes drift and learns calibration text by heart, and the way back towards the one-shot
weights loses the second before the first: somewhere between the two, unseen text is best off. Along the
line its NLL is close to a parabola, so three points say where (docs/repair.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from secateur.calibrate.block_library import BlockLibrary
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderLayer, DecoderModel, SubBlock, architecture_of, map_layer
from secateur.model.forward import mean_nll
from secateur.progress import ProgressReporter
from secateur.prune.surgery import interpolate, repair_in_sequence, slim_layers
from secateur.prune.windows import WindowSplit

STEP = 0.05  # shares are rounded to this


@dataclass(frozen=True)
class RepairResult:
    """How a slim model comes to its weights.

    Attributes:
        how: ``none``, ``one-shot`` or ``in-sequence``.
        share: how far it is from the one-shot weights (0) to those fitted in sequence (1).
        nll: on unseen text, nats per token.
        layers: makes its layers, one after the other.
    """

    how: str
    share: float
    nll: float
    layers: Callable[[], Iterator[DecoderLayer]]


def repair(
    library: BlockLibrary,
    plain: Mapping[Architecture, float],
    split: WindowSplit,
    reporter: ProgressReporter,
    *,
    in_sequence: bool,
    keep: Callable[[SubBlock], SubBlock] = lambda block: block,
) -> dict[Architecture, RepairResult]:
    """The slim model of each architecture, at its best on unseen text.

    No slim model is made here but those that are compared, one at a time: what is fitted goes to `keep`.

    Args:
        plain: architectures, and the NLL on validation windows of the models that the library cuts.
        in_sequence: whether to fit in sequence; otherwise the models are as the library cuts them.
        keep: what becomes of a fitted sub-block, such as `on_disk`.
    """
    dense = architecture_of(library.master)
    repaired: dict[Architecture, RepairResult] = {}
    for architecture, nll in plain.items():
        how = "one-shot" if in_sequence and architecture != dense else "none"
        repaired[architecture] = RepairResult(how, 0.0, nll, partial(slim_layers, library, architecture))
    to_refit = [each for each, slim in repaired.items() if slim.how == "one-shot"]
    if to_refit:
        reporter.stage("repairing in sequence", 2 * library.master.num_layers)
        with torch.inference_mode():
            fitted = repair_in_sequence(library, to_refit, split.repair, keep=keep, advance=reporter.step)
            for each, model in zip(to_refit, fitted, strict=True):
                repaired[each] = _line_search(repaired[each], model, split, library, reporter)
    return repaired


def _line_search(
    one_shot: RepairResult,
    fitted: DecoderModel,
    split: WindowSplit,
    library: BlockLibrary,
    reporter: ProgressReporter,
) -> RepairResult:
    """The best model found on the line from one-shot weights to those fitted in sequence."""
    nll = {0.0: one_shot.nll}
    dtype, home = library.model.dtype, library.master.device
    frame = replace(fitted, layers=()).to(dtype)

    def between(share: float) -> Iterator[DecoderLayer]:
        return interpolate(one_shot.layers(), fitted.layers, share)

    def measure(share: float) -> None:
        if share not in nll:
            fast = (map_layer(layer, lambda tensor: tensor.to(home, dtype)) for layer in between(share))
            layers = tuple(fast)
            nll[share] = mean_nll(library.place(replace(frame, layers=layers)), split.validation)
        reporter.step()

    reporter.stage("comparing repairs on unseen text", 3)
    measure(1.0)
    measure(0.5)
    measure(round(round(parabola_minimum(nll[0.0], nll[0.5], nll[1.0]) / STEP) * STEP, 2))
    share = min(nll, key=lambda each: nll[each])
    points = ", ".join(f"{nll[each]:.4f} at {each:.2f}" for each in sorted(nll))
    reporter.message(f"loss on unseen text by the share of repair in sequence: {points}")
    if share == 0.0:
        return one_shot
    return RepairResult("in-sequence", share, nll[share], partial(between, share))


def parabola_minimum(at_0: float, at_half: float, at_1: float) -> float:
    """Where in [0, 1] the parabola through three values is lowest."""
    bend = 2 * (at_0 - 2 * at_half + at_1)
    if bend <= 0:
        return float(at_1 < at_0)
    return min(max((3 * at_0 - 4 * at_half + at_1) / (2 * bend), 0.0), 1.0)
