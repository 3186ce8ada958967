"""The dense model's side of a comparison: what is kept of its distributions, and losses against them.

On a CPU the probabilities are kept (N x V numbers): reading them again costs less than the product that
makes them. On a GPU the hidden states are (N x H), and a kernel makes both logits tile by tile.

Shape suffixes: N predicted positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from secateur_kernels import TeacherStates, linear_kl, linear_loss, prepare_teacher


@dataclass(frozen=True)
class KeptTeacher:
    """The dense model at N positions.

    Attributes:
        nll_N: its own negative log-likelihoods, nats.
        kept: what `Teachers.compare` reads.
    """

    nll_N: Tensor
    kept: Any


class Teachers(Protocol):
    """A way to keep the dense model's distributions."""

    def bytes_per_token(self, head_VH: Tensor) -> int:
        """What is kept of a position."""

    def keep(self, hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> KeptTeacher:
        """The dense model's side, from its final hidden states."""

    def compare(
        self, hidden_NH: Tensor, teacher: KeptTeacher, head_VH: Tensor, target_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """KL to the dense model and NLL of a candidate, fp32 [N] each, nats."""


class Probabilities(Teachers):
    """Keeps N x V probabilities in the head's dtype."""

    def bytes_per_token(self, head_VH: Tensor) -> int:
        return len(head_VH) * head_VH.element_size()

    def keep(self, hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> KeptTeacher:
        teacher = prepare_teacher(hidden_NH, head_VH, target_N)
        return KeptTeacher(teacher.nll_N, teacher)

    def compare(
        self, hidden_NH: Tensor, teacher: KeptTeacher, head_VH: Tensor, target_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        return linear_kl(hidden_NH, teacher.kept, head_VH, target_N)


class HiddenStates(Teachers):
    """Keeps N x H hidden states; 4NHV FLOPs per comparison instead of 2NHV."""

    def bytes_per_token(self, head_VH: Tensor) -> int:
        return head_VH.shape[1] * head_VH.element_size()

    def keep(self, hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> KeptTeacher:
        losses = linear_loss(hidden_NH, head_VH, target_N)
        return KeptTeacher(losses.nll_N, TeacherStates(hidden_NH, losses.lse_N))

    def compare(
        self, hidden_NH: Tensor, teacher: KeptTeacher, head_VH: Tensor, target_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        losses = linear_loss(hidden_NH, head_VH, target_N, teacher=teacher.kept)
        assert losses.kl_N is not None  # there is a teacher
        return losses.kl_N, losses.nll_N


def teachers_for(device_type: str) -> Teachers:
    """The way that is fastest on a kind of device."""
    return Probabilities() if device_type == "cpu" else HiddenStates()
