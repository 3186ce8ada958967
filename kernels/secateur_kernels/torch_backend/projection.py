"""Bounded projections in torch: slices, so work falls with what is kept.

Shape suffixes: M candidates, N tokens, C inner channels, H outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from secateur_kernels.arguments import Widths
from secateur_kernels.projection import Projection, ProjectionTable


def project(inner: Tensor, weight: Projection, kept: Widths, span: int, bias_H: Tensor | None) -> Tensor:
    """See `secateur_kernels.masked_projection`."""
    outputs = []
    for number, count in enumerate(kept.host()):
        inner_NC = inner[number] if inner.dim() == 3 else inner
        weight_HC = weight.weights[number] if isinstance(weight, ProjectionTable) else weight
        width = min(max(count, 0) * span, weight_HC.shape[1], inner_NC.shape[1])
        outputs.append(functional.linear(inner_NC[:, :width], weight_HC[:, :width], bias_H))
    return outputs[0] if kept.single and inner.dim() == 2 else torch.stack(outputs)


def project_nested(inner_NC: Tensor, weight_HC: Tensor, kept: Widths, span: int) -> Tensor:
    """See `secateur_kernels.nested_projection`. The running sum is fp32, or every boundary would round."""
    counts = kept.host()
    out = inner_NC.new_empty(len(counts), len(inner_NC), len(weight_HC))
    total_NH = torch.zeros(len(inner_NC), len(weight_HC), dtype=torch.float32, device=inner_NC.device)
    done = 0
    for number, count in enumerate(counts):
        width = count * span
        if width > done:
            total_NH += functional.linear(inner_NC[:, done:width], weight_HC[:, done:width])
        out[number] = total_NH
        done = width
    return out
