"""What a recovery will take, from shapes alone: memory, disk, time, windows that go through at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from secateur.config.recover import FULL, LAST, LORA, SCALES, RecoverOptions
from secateur.errors import BadInput
from secateur.memory import available_bytes
from secateur.model.compute import Compute
from secateur.model.decoder import AttentionWeights, DecoderModel, tensors_of
from secateur.model.units import last_projection
from secateur.prune.plan import PROCESS_BYTES, VERIFIER_BYTES, measure_rates
from secateur.recover.loss import DEVICE_TILE_BYTES, TILE_BYTES
from secateur.recover.schedule import Budget
from secateur.recover.teacher import CACHE_BYTES

FP32 = 4
ACTIVATIONS_SHARE = 0.3  # of what is free, at most, for activations that wait for the backward pass
TILES = 4
VALIDATIONS = 4


@dataclass(frozen=True)
class RecoveryPlan:
    """A job before it runs; bytes.

    Attributes:
        weights: both models, gradients, moments, and the best weights.
        activations: of one piece.
        beside: processes, tiles of logits, the dense model's states that are kept.
        free: what there is.
        piece: windows that go through the model at once.
        disk: the state and the checkpoint.
        operations: floating-point ones of a training token, and of a validation token.
        learns: how many numbers.
    """

    weights: int
    activations: int
    beside: int
    free: int
    piece: int
    disk: int
    operations: tuple[float, float]
    learns: int

    @property
    def memory(self) -> int:
        """At the peak."""
        return self.weights + self.activations + self.beside

    def check(self, options: RecoverOptions) -> None:
        """Refuse a job that cannot fit.

        Raises:
            BadInput: it needs more memory than is free.
        """
        if self.memory > self.free:
            reason = f"{self.memory / 1e9:.1f} GB are needed, {self.free / 1e9:.1f} GB are free"
            raise BadInput("train", options.train, f"{reason}; scales and lora need the least")

    def describe(self) -> str:
        """One line."""
        return (
            f"memory about {self.memory / 1e9:.1f} GB: weights and moments {self.weights / 1e9:.1f}, "
            f"activations {self.activations / 1e9:.1f}"
        )

    def to_json(self, options: RecoverOptions, compute: Compute) -> dict[str, Any]:
        """Bytes, tokens and seconds, at the rate that products have on this machine."""
        rates = measure_rates(compute)
        rate = rates.bf16 if compute.dtype == torch.bfloat16 else rates.fp32
        per_second = rate / self.operations[0]
        judged = options.validation_windows * options.window * self.operations[1] / rate
        budget, step = Budget.of(options), options.batch * options.window
        if budget.steps is not None:
            tokens, seconds = budget.steps * step, budget.steps * step / per_second + VALIDATIONS * judged
        else:
            seconds = budget.seconds or 0.0
            tokens = int(max(0.0, seconds - VALIDATIONS * judged) * per_second)
        return {
            "memory": self.memory,
            "weights": self.weights,
            "activations": self.activations,
            "disk": self.disk,
            "numbers": self.learns,
            "tokens": tokens,
            "seconds": round(seconds, 1),
            "tokens_per_second": round(per_second, 1),
        }


def plan_recovery(
    slim: DecoderModel, dense: DecoderModel, options: RecoverOptions, compute: Compute
) -> RecoveryPlan:
    """The plan for two models, which may be on `meta`."""
    layers, learns, per_token = 0, slim.hidden_size, 0
    hidden = slim.hidden_size
    for block in _blocks(slim):
        inner = last_projection(block).numel()
        weights = sum(tensor.numel() for tensor in tensors_of(block).values())
        layers += weights
        learns += hidden + _learns(block, options, weights, inner, slim.head_dim * slim.queries_per_group)
        width = inner // hidden
        per_token += 4 * hidden + (5 if isinstance(block, AttentionWeights) else 4) * width
    ends = slim.head_VH.numel() * (1 if slim.tied else 2)
    dense_layers = sum(t.numel() for block in _blocks(dense) for t in tensors_of(block).values())
    window_bytes = per_token * options.window * FP32
    free = _free(compute)
    piece = max(1, min(options.batch, int(ACTIVATIONS_SHARE * free) // max(1, window_bytes)))
    head = 2 * slim.head_VH.numel()
    backward = 2.0 if options.train in (SCALES, LAST, LORA) else 4.0
    stored = (layers + ends) * slim.dtype.itemsize
    return RecoveryPlan(
        weights=(layers + ends) * FP32
        + (dense_layers + ends) * compute.dtype.itemsize
        + learns * FP32 * 4  # gradients, two moments, the best
        + 2 * stored,
        activations=piece * window_bytes,
        beside=(0 if compute.accelerated else PROCESS_BYTES + VERIFIER_BYTES)
        + TILES * TILE_BYTES.get(compute.device.type, DEVICE_TILE_BYTES)
        + CACHE_BYTES,
        free=free,
        piece=piece,
        disk=learns * FP32 * 4 + stored,
        operations=(2.0 * dense_layers + 3 * head + (2.0 + backward) * layers, 2.0 * layers + 2 * head),
        learns=learns,
    )


def _blocks(model: DecoderModel) -> list[Any]:
    return [half for layer in model.layers for half in (layer.attention, layer.ffn) if half is not None]


def _learns(block: Any, options: RecoverOptions, weights: int, last: int, unit: int) -> int:
    """Numbers of a sub-block that learn, beside its norm."""
    hidden = len(block.norm_H)
    if options.train == FULL:
        return weights - hidden
    if options.train == LAST:
        return last
    if options.train == SCALES:
        return last // hidden // (unit if isinstance(block, AttentionWeights) else 1) + 1
    matrices = [tensor for tensor in tensors_of(block).values() if tensor.dim() == 2]
    return sum(options.rank * sum(matrix.shape) for matrix in matrices)


def _free(compute: Compute) -> int:
    if not compute.accelerated:
        return available_bytes()
    return int(torch.get_device_module(compute.device).mem_get_info(compute.device)[0])
