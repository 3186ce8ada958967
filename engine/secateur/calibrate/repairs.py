"""A sub-block's repaired projections: what is kept of them so that any width costs little.

With L the Cholesky factor of the sorted, damped Gram matrix and M = W L, the projection repaired for the
first k channels is W'_k = M_:k (L^-1)_:k,:k (`least_squares`), so q more channels add
M_k:k+q (L^-1)_k:k+q,:k+q. Channels are cut into a few panels. A panel keeps the projection where it begins
and the parts of M and L^-1 from there to where the next begins: a width is one product within its panel,
whichever widths were asked for before.

Shape suffixes: H hidden, N inner channels, K those before a panel, Q those of a panel, J = K + Q.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.calibrate.least_squares import factorise

# More panels make a width cheaper and the file larger. With 8 the projections at their beginnings take 3.5
# times the weight, and a width of a 1B model's FFN a sixteenth of what it took from the factor alone.
PANELS = 8


@dataclass(frozen=True)
class Panel:
    """Channels K to J, fp32.

    Attributes:
        base_HK: the projection repaired for the channels before.
        mixed_HQ: columns of W L.
        inverse_QJ: rows of L^-1, up to the diagonal.
    """

    base_HK: Tensor
    mixed_HQ: Tensor
    inverse_QJ: Tensor

    def projection(self, keep: int, device: torch.device) -> Tensor:
        """The projection [H, keep] fp32 repaired for the first `keep` channels, K <= keep <= J."""
        begin = self.base_HK.shape[1]
        added = keep - begin
        found = self.mixed_HQ[:, :added].to(device) @ self.inverse_QJ[:added, :keep].to(device)
        found[:, :begin] += self.base_HK.to(device)
        return found


@dataclass(frozen=True)
class Repairs:
    """The repaired projections of a sub-block.

    Attributes:
        left_N: squared output error (summed over calibration tokens) left when the first n channels are
            kept, fp64.
        panels: in the order of their channels.
    """

    left_N: Tensor
    panels: tuple[Panel, ...]

    @classmethod
    def fit(
        cls, weight_HN: Tensor, gram_NN: Tensor, order_N: Tensor, shrinkage: float, span: int = 1
    ) -> Repairs:
        """Those of a projection and the Gram matrix of what it reads, to be sorted by `order_N`.

        Args:
            shrinkage: as `factorise` takes it.
            span: channels of a unit; panels begin where units do.

        Cost: N^3 / 3 FLOPs in fp64, 3 H N^2 + N^3 / 3 in fp32.
        """
        weight_HN, factor_NN = weight_HN[:, order_N], factorise(gram_NN, order_N, shrinkage)
        channels = weight_HN.shape[1]
        step = span * -(-channels // (span * PANELS))
        mixed_HN = weight_HN.float() @ factor_NN
        left_N = mixed_HN.square().sum(0).double().flip(0).cumsum(0).flip(0)
        panels: list[Panel] = []
        base_HK = mixed_HN[:, :0]
        for begin in range(0, channels, step):
            end = min(begin + step, channels)
            panel = Panel(base_HK, mixed_HN[:, begin:end].contiguous(), _inverse_rows(factor_NN, begin, end))
            panels.append(panel)
            base_HK = panel.projection(end, factor_NN.device)
        return cls(left_N, tuple(panels))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> Repairs:
        """The inverse of `tensors`; raises KeyError where some are missing."""
        count = sum(name.startswith(f"{prefix}.mixed.") for name in tensors)
        first_HQ = tensors[f"{prefix}.mixed.0"]
        bases = [first_HQ[:, :0], *(tensors[f"{prefix}.base.{number}"] for number in range(1, count))]
        panels = (
            Panel(base_HK, tensors[f"{prefix}.mixed.{number}"], tensors[f"{prefix}.inverse.{number}"])
            for number, base_HK in enumerate(bases)
        )
        return cls(tensors[f"{prefix}.left"], tuple(panels))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """What a file holds of them; names begin with `prefix`."""
        named = {f"{prefix}.left": self.left_N}
        for number, panel in enumerate(self.panels):
            named[f"{prefix}.mixed.{number}"] = panel.mixed_HQ
            named[f"{prefix}.inverse.{number}"] = panel.inverse_QJ
            if number:
                named[f"{prefix}.base.{number}"] = panel.base_HK
        return named

    def projection(self, keep: int, device: torch.device) -> Tensor:
        """The projection [H, keep] fp32 of the first `keep` channels that best stands in for all.

        Args:
            device: where it is computed; what is kept may be in memory or a file of the host.

        Cost: 2 H q keep FLOPs, q the channels after the beginning of a panel.
        """
        panel = next(panel for panel in self.panels if keep <= panel.inverse_QJ.shape[1])
        return panel.projection(keep, device)

    def errors(self, keeps: list[int]) -> list[float]:
        """Squared output error (summed over calibration tokens) that repair leaves at each of `keeps`."""
        left = [*self.left_N.tolist(), 0.0]
        return [left[keep] for keep in keeps]


def _inverse_rows(factor_NN: Tensor, begin: int, end: int) -> Tensor:
    """Rows begin:end of L^-1, up to column `end`, fp32."""
    unit_QJ = torch.zeros(end - begin, end, device=factor_NN.device)
    unit_QJ.diagonal(begin).fill_(1.0)
    return torch.linalg.solve_triangular(factor_NN[:end, :end], unit_QJ, upper=False, left=False).contiguous()
