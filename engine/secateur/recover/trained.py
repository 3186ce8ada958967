"""What recovery trains of a slim model, and how it becomes plain weights again.

Shape suffixes: H hidden, K units of a projection's input, R rank, IN and OUT features of a projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.checkpoint.transformers_module import transformers_module
from secateur.config.recover import LAST, LORA, SCALES
from secateur.model.decoder import DecoderModel, build_model, named_tensors
from secateur.model.families import ModelFamily

LORA_ALPHA = 2.0  # factor of the change, whatever its rank: a learning rate suits several ranks


class ScaledLinear(nn.Module):
    """A projection with a factor for each unit that it reads, and one for its output; all begin at 1."""

    def __init__(self, linear: nn.Linear, unit: int) -> None:
        super().__init__()
        self.linear, self.unit = linear, unit
        self.input_K = nn.Parameter(torch.ones(linear.in_features // unit))
        self.output = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Factors first: gradients of the projection's own weights are then not needed for theirs."""
        return self.linear(x * self._per_feature) * self.output

    @property
    def _per_feature(self) -> Tensor:
        return self.input_K.repeat_interleave(self.unit)

    def folded(self, part: str) -> Tensor:
        """The weight or bias of the plain projection that does the same."""
        weight = getattr(self.linear, part) * self.output
        return weight * self._per_feature if part == "weight" else weight


class LoraLinear(nn.Module):
    """A projection and a change of low rank, which begins at 0 (arXiv 2106.09685)."""

    def __init__(self, linear: nn.Linear, rank: int, chance: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        bound = 1 / math.sqrt(linear.in_features)
        down = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=chance)
        self.down_RIN = nn.Parameter(down.to(linear.weight.device))
        self.up_OUTR = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The projection, and beside it two small ones."""
        change = functional.linear(functional.linear(x, self.down_RIN), self.up_OUTR)
        return self.linear(x) + change * LORA_ALPHA

    def folded(self, part: str) -> Tensor:
        """The weight or bias of the plain projection that does the same."""
        if part == "bias":
            return self.linear.bias
        return self.linear.weight + LORA_ALPHA * self.up_OUTR @ self.down_RIN


@dataclass(frozen=True)
class Trained:
    """A slim model in training: transformers' module of it in fp32, with what learns.

    Attributes:
        module: what is run.
        parameters: what learns, by name.
        slim: the model that it began as.
    """

    module: Any
    parameters: dict[str, nn.Parameter]
    slim: DecoderModel

    @property
    def count(self) -> int:
        """Numbers that learn."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """What the output head reads, [B, T, H]."""
        hidden_BTH: Tensor = self.module.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        return hidden_BTH * self.slim.multipliers.logits

    @torch.no_grad()
    def folded(self, dtype: torch.dtype) -> DecoderModel:
        """A plain model of the same function, rounded to a dtype."""
        tensors = {}
        for name in named_tensors(self.slim):
            path, _, part = name.rpartition(".")
            holder = self.module.get_submodule(path)
            value = holder.folded(part) if hasattr(holder, "folded") else getattr(holder, part)
            tensors[name] = value.detach().to(dtype)
        return build_model(self.slim.config, tensors, "the recovered model")


def start_training(slim: DecoderModel, train: str, rank: int, seed: int) -> Trained:
    """The module of a slim model, with what `train` names made trainable.

    Args:
        slim: in any dtype, on the device to train on.
    """
    module: Any = transformers_module(slim.to(torch.float32))
    module.requires_grad_(False)
    chance = torch.Generator().manual_seed(seed)
    for path, linear in _projections(module, slim.family, last_only=train in (SCALES, LAST)):
        if train == SCALES:
            is_attention = path.endswith(slim.family.output)
            unit = slim.head_dim * slim.queries_per_group if is_attention else 1
            module.set_submodule(path, ScaledLinear(linear, unit).to(linear.weight.device))
        elif train == LORA:
            module.set_submodule(path, LoraLinear(linear, rank, chance))
        else:
            linear.requires_grad_(True)
    for name, parameter in module.named_parameters():
        if name.endswith("norm.weight"):
            parameter.requires_grad_(True)
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    return Trained(module, parameters, slim)


def _projections(
    module: nn.Module, family: ModelFamily, *, last_only: bool
) -> Iterator[tuple[str, nn.Linear]]:
    """Every projection of the layers, or the last of each sub-block, with its path."""
    for path, part in list(module.named_modules()):
        is_last = path.endswith((family.output, family.down))
        if isinstance(part, nn.Linear) and path.startswith(family.layers) and (is_last or not last_only):
            yield path, part
