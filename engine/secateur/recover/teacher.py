"""The dense model as a teacher: its final hidden states, and what a slim model loses against them.

Shape suffixes: B windows, T tokens, H hidden, N positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.model.decoder import DecoderModel
from secateur.model.forward import forward_context, hidden_states
from secateur_kernels import TeacherStates, linear_loss, teacher_states

CACHE_BYTES = 1 << 30
BATCH_WINDOWS = 4


@dataclass(frozen=True)
class Judgement:
    """Means over the predicted tokens of the validation windows, nats.

    Attributes:
        kl: from the dense model's distribution.
        nll: negative log-likelihood.
    """

    kl: float
    nll: float


class Teacher:
    """The dense model's states of windows; of training windows they are kept, as far as there is room.

    Args:
        model: the dense model, in the dtype and on the device to compute with.
        head_VH: the slim model's head, which is the dense one's as it was stored.
        windows_WT: those to train on.
    """

    def __init__(self, model: DecoderModel, head_VH: Tensor, windows_WT: Tensor) -> None:
        self.head_VH = head_VH.to(model.device, model.dtype)
        self._model, self._windows = model, windows_WT
        self._context = forward_context(model, windows_WT.shape[1])
        window_bytes = windows_WT.shape[1] * model.hidden_size * model.dtype.itemsize
        self._room = CACHE_BYTES // window_bytes
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def states(self, indices_B: Tensor) -> Tensor:
        """Of training windows, [B, T, H]."""
        missing = [index for index in indices_B.tolist() if index not in self._kept]
        new = {}
        if missing:
            tokens_BT = self._windows[missing].to(self._model.device)
            new = dict(zip(missing, hidden_states(self._model, tokens_BT, self._context), strict=True))
        found = torch.stack([self._kept[i] if i in self._kept else new[i] for i in indices_B.tolist()])
        for index, state_TH in new.items():
            if len(self._kept) < self._room:
                self._kept[index] = state_TH.clone()
        return found


class Judge:
    """Compares slim models with the dense one on validation windows."""

    def __init__(self, model: DecoderModel, head_VH: Tensor, windows_WT: Tensor) -> None:
        self._context = forward_context(model, windows_WT.shape[1])
        self._head_VH = head_VH.to(model.device, model.dtype)
        self._windows = windows_WT.to(model.device).split(BATCH_WINDOWS)
        self._dtype, self._device = model.dtype, model.device
        self._teachers = [self._teacher(model, tokens_BT) for tokens_BT in self._windows]

    @property
    def dense_nll(self) -> float:
        """The dense model's own mean negative log-likelihood."""
        return _mean([states.nll_N for states in self._teachers if states.nll_N is not None])

    @torch.inference_mode()
    def judge(self, slim: DecoderModel) -> Judgement:
        """What a slim model loses, computed in the dtype of the dense one."""
        slim = slim.to(self._dtype, self._device)
        losses = [
            linear_loss(
                self._states(slim, tokens_BT), self._head_VH, tokens_BT[:, 1:].flatten(), teacher=teacher
            )
            for tokens_BT, teacher in zip(self._windows, self._teachers, strict=True)
        ]
        return Judgement(
            _mean([loss.kl_N for loss in losses if loss.kl_N is not None]),
            _mean([loss.nll_N for loss in losses]),
        )

    @torch.inference_mode()
    def _teacher(self, model: DecoderModel, tokens_BT: Tensor) -> TeacherStates:
        return teacher_states(self._states(model, tokens_BT), self._head_VH, tokens_BT[:, 1:].flatten())

    def _states(self, model: DecoderModel, tokens_BT: Tensor) -> Tensor:
        return hidden_states(model, tokens_BT, self._context)[:, :-1].flatten(0, 1)


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())
