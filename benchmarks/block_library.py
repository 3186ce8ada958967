"""What repaired projections cost: from the factor alone, a width at a time, and from panels (`Repairs`).

    python -m benchmarks.block_library [--widths 12]

One layer of each shape, with random weights and activations of decaying variance: seconds to factorise, to
know the error left at every width (what the additive table needs), and to build projections of random
widths as candidates ask for them, read from a memory-mapped file as the search reads them. The old ways are
kept here; one product per width is timed at 8 widths and multiplied. Both give the same projections within
the rounding of bf16, which is checked. Writes benchmarks/results/DEVICE-DATE-block-library.json; never edit
that by hand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.host import cpu, write_result
from secateur.calibrate.least_squares import factorise
from secateur.calibrate.repairs import Repairs

SHRINKAGE = 0.01
SAMPLED_ERRORS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """A sub-block: hidden size, units, channels of a unit, units that widths are multiples of; layers."""

    hidden: int
    units: int
    span: int
    quantum: int
    layers: int

    @property
    def widths(self) -> list[int]:
        """Channels at every allowed width but none and all."""
        return [units * self.span for units in range(self.quantum, self.units, self.quantum)]


SHAPES = {
    "135M attention": Shape(576, 3, 192, 1, 30),
    "135M FFN": Shape(576, 1536, 1, 64, 30),
    "1B attention": Shape(2048, 8, 256, 1, 16),
    "1B FFN": Shape(2048, 8192, 1, 64, 16),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, default=12, help="projections to build of each sub-block")
    count = parser.parse_args().widths
    rows = {name: _row(shape, count) for name, shape in SHAPES.items()}
    result = {
        "device": cpu(),
        "protocol": __doc__.split("\n\n")[2].replace("\n", " "),
        "threads": torch.get_num_threads(),
        "seconds_of_a_sub_block": rows,
        "seconds_of_a_model": {model: _model(model, rows) for model in ("135M", "1B")},
    }
    print(write_result("block-library", result).read_text(), end="")


def _row(shape: Shape, count: int) -> dict[str, Any]:
    torch.manual_seed(0)
    weight_HN, gram_NN, order_N = _random(shape)
    factor_seconds, factor_NN = _timed(lambda: factorise(gram_NN, order_N, SHRINKAGE))
    fit_seconds, repairs = _timed(lambda: Repairs.fit(weight_HN, gram_NN, order_N, SHRINKAGE, shape.span))
    sorted_HN = weight_HN[:, order_N].contiguous()
    widths = _asked_for(shape, count)
    with TemporaryDirectory() as folder:
        save_file({"factor": factor_NN}, Path(folder) / "factor")
        save_file(repairs.tensors("x"), Path(folder) / "repairs")
        factor_NN = load_file(Path(folder) / "factor")["factor"]
        repairs = Repairs.from_tensors(load_file(Path(folder) / "repairs"), "x")
        sampled = shape.widths[:: max(1, len(shape.widths) // SAMPLED_ERRORS)]
        each_error, _ = _timed(lambda: [_error(sorted_HN, factor_NN, keep) for keep in sampled])
        all_errors, _ = _timed(lambda: repairs.errors(shape.widths))
        before, old = _timed(lambda: [_repaired(sorted_HN, factor_NN, keep).bfloat16() for keep in widths])
        after, new = _timed(lambda: [repairs.projection(keep, CPU).bfloat16() for keep in widths])
    worst = max(
        float((one.float() - other.float()).norm() / one.float().norm())
        for one, other in zip(old, new, strict=True)
    )
    if worst > 2**-8:
        raise SystemExit(f"the projections differ: {worst}")
    return {
        "layers": shape.layers,
        "factorise": {"before": factor_seconds, "after": fit_seconds},
        "errors_at_every_width": {
            "before": each_error * len(shape.widths) / len(sampled),
            "after": all_errors,
        },
        "a_projection": {"before": before / len(widths), "after": after / len(widths)},
        "relative_difference_in_bf16": worst,
        "widths": len(shape.widths),
        "projections_timed": len(widths),
    }


def _model(model: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All layers: the table; and projections of 12 and of 100 candidates that share none."""
    parts = [row for name, row in rows.items() if name.startswith(model)]

    def total(key: str, when: str, times: int = 1) -> float:
        return sum(row["layers"] * row[key][when] * times for row in parts)

    found: dict[str, Any] = {}
    for when in ("before", "after"):
        found[when] = {
            "factorise": round(total("factorise", when), 2),
            "build_table": round(total("errors_at_every_width", when), 4),
            "12_candidates": round(total("a_projection", when, 12), 2),
            "100_candidates": round(total("a_projection", when, 100), 2),
        }
        found[when]["all_with_100_candidates"] = round(
            sum(seconds for name, seconds in found[when].items() if name != "12_candidates"), 2
        )
    found["times_as_fast"] = {
        name: round(seconds / max(found["after"][name], 1e-9), 1) for name, seconds in found["before"].items()
    }
    return found


def _random(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """A projection, the Gram matrix of correlated channels of different strength, and an order of them."""
    channels = shape.units * shape.span
    x_MN = torch.randn(2048, channels) * torch.logspace(0, -2, channels).sqrt()
    x_MN = x_MN[:, torch.randperm(channels)] + 0.5 * torch.randn(2048, 64) @ torch.randn(64, channels) / 8
    weight_HN = torch.randn(shape.hidden, channels) / channels**0.5
    gram_NN = x_MN.T @ x_MN
    score_U = (gram_NN.diagonal() * weight_HN.square().sum(0)).view(-1, shape.span).sum(1)
    order_U = score_U.argsort(descending=True)
    return weight_HN, gram_NN, (order_U[:, None] * shape.span + torch.arange(shape.span)).flatten()


def _asked_for(shape: Shape, count: int) -> list[int]:
    """Widths over half the channels, as budgets around 0.8 ask for."""
    wide = [keep for keep in shape.widths if keep >= shape.units * shape.span // 2]
    return [wide[place] for place in torch.randint(len(wide), (count,)).tolist()]


def _repaired(weight_HN: Tensor, factor_NN: Tensor, keep: int) -> Tensor:
    """W_K + W_R L_RK L_KK^-1, fp64: as the library built each projection."""
    rest_HK = weight_HN[:, keep:].double() @ factor_NN[keep:, :keep].double()
    kept_KK = factor_NN[:keep, :keep].double()
    update_HK = torch.linalg.solve_triangular(kept_KK, rest_HK, upper=False, left=False)
    return (weight_HN[:, :keep].double() + update_HK).float()


def _error(weight_HN: Tensor, factor_NN: Tensor, keep: int) -> float:
    """|| W_R L_RR ||_F^2: as the table had each error."""
    return float((weight_HN[:, keep:] @ factor_NN[keep:, keep:]).double().square().sum())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


if __name__ == "__main__":
    main()
