"""The training loop: AdamW on the KL from the dense model; the best validated weights are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.config.recover import RecoverOptions
from secateur.errors import SecateurError
from secateur.model.decoder import DecoderModel
from secateur.progress import ProgressReporter
from secateur.recover.loss import distillation_kl
from secateur.recover.schedule import Budget, factor
from secateur.recover.state import Progress, Validated, forget_state, load_state, save_state
from secateur.recover.teacher import Judge, Teacher
from secateur.recover.text import RecoveryText
from secateur.recover.trained import Trained

BETAS, CLIP = (0.9, 0.95), 1.0
VALIDATE_AT = (0.5, 0.75)  # shares of the budget; and at its end
STATE_SHARE = 0.02  # of the time, at most, goes into writing states
SMOOTHED = 20  # steps whose losses are told as one


@dataclass
class Training:
    """One run, in memory.

    Attributes:
        rate: the highest learning rate.
        piece: windows that go through the model at once; a step is made of several.
        stored: dtype of the weights on disk: what is judged is rounded to it.
        identity: what a state on disk must agree in.
    """

    options: RecoverOptions
    trained: Trained
    teacher: Teacher
    judge: Judge
    text: RecoveryText
    rate: float
    piece: int
    stored: torch.dtype
    compute_dtype: torch.dtype
    identity: Mapping[str, Any]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._budget = Budget.of(self.options)
        parameters = list(self.trained.parameters.values())
        self._optimizer = torch.optim.AdamW(parameters, lr=self.rate, betas=BETAS, weight_decay=0.0)
        self._best: dict[str, Tensor] = {}  # empty while the input is the best

    def run(self, reporter: ProgressReporter) -> DecoderModel:
        """Train until the budget is spent; the best model, in the dtype on disk.

        Raises:
            SecateurError: the loss is no number any more.
            OutputFailed: the state could not be written.
            BadInput: a state of another run is in the way.
        """
        if self._resume():
            reporter.message(f"going on after step {self.progress.step} of an earlier run")
        reporter.stage(f"recovering, {self.trained.count:,} numbers learn", self._budget.units)
        clock = _Clock(self.progress)
        validation_seconds = self._validate(clock) if not self.progress.validated else 0.0
        told, saved, save_seconds = 0, clock.now(), 0.0
        while (spent := self._spent(clock.now(), validation_seconds)) < 1:
            self._validate_if_due(spent, clock)
            self._step(spent)
            now = clock.now()
            told = self._tell(reporter, told, now)
            if now - saved >= save_seconds / STATE_SHARE:
                self.progress.seconds = now
                self._save(self.options.state_folder)
                saved, save_seconds = clock.now(), clock.now() - now
        self._validate(clock)
        self.progress.seconds = clock.now()
        reporter.step("", max(0, self._budget.units - told))
        return self._best_model()

    def _spent(self, seconds: float, reserved: float) -> float:
        return self._budget.spent(self.progress.step, seconds, reserved)

    def _step(self, spent: float) -> None:
        step = self.progress.step
        indices_B = self.text.indices(step, self.options.batch, self.options.seed)
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate * factor(self.options.schedule, spent)
        self._optimizer.zero_grad(set_to_none=True)
        loss = float(self.gradients(indices_B))
        norm = torch.nn.utils.clip_grad_norm_(list(self.trained.parameters.values()), CLIP)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            rate = f"{self.rate:g}"
            forget_state(self.options.state_folder)  # it leads here again
            raise SecateurError(
                f"`learning_rate` {rate}: the loss at step {step + 1} is {loss}, its gradient {float(norm)}; "
                "nothing was written, SLIM is as it was: try a lower rate"
            )
        self._optimizer.step()
        self.progress.losses.append(loss)
        self.progress.step += 1

    def gradients(self, indices_B: Tensor) -> Tensor:
        """Add the gradients of some windows' mean KL to the parameters', piece by piece; that KL."""
        device = self.teacher.head_VH.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for piece_B in indices_B.split(self.piece):
            tokens_BT = self.text.training_WT[piece_B].to(device)
            teacher_BTH = self.teacher.states(piece_B)
            with self._autocast():
                hidden_BTH = self.trained.hidden(tokens_BT)
            kl_N = distillation_kl(hidden_BTH.flatten(0, 1), teacher_BTH.flatten(0, 1), self.teacher.head_VH)
            share = kl_N.sum() / (len(indices_B) * tokens_BT.shape[1])
            share.backward()
            total += share.detach()
        return total

    def _autocast(self) -> AbstractContextManager[Any]:
        """Products in the fast dtype, from weights that stay fp32."""
        device, fast = self.teacher.head_VH.device.type, self.compute_dtype
        return torch.autocast(device, fast, enabled=fast != torch.float32)

    def _validate_if_due(self, spent: float, clock: _Clock) -> None:
        reached = sum(spent >= share for share in VALIDATE_AT)
        if len(self.progress.validated) - 1 < reached:
            self._validate(clock)

    def _validate(self, clock: _Clock) -> float:
        """Judge the weights as they would be stored; returns the seconds that it took."""
        started = clock.now()
        found = self.judge.judge(self.trained.folded(self.stored))
        validated = Validated(self.progress.step, clock.now(), found.kl, found.nll)
        self.progress.validated.append(validated)
        if self.progress.best is validated and self.progress.step:
            self._best = {name: value.detach().clone() for name, value in self.trained.parameters.items()}
        return clock.now() - started

    def _tell(self, reporter: ProgressReporter, told: int, seconds: float) -> int:
        done = min(self.progress.step if self._budget.steps is not None else int(seconds), self._budget.units)
        if done > told:
            recent = self.progress.losses[-SMOOTHED:]
            tokens = self.progress.step * self.options.batch * self.options.window
            pace = f"{tokens / seconds:,.0f} tokens/s"
            reporter.step(
                f"step {self.progress.step}, KL {sum(recent) / len(recent):.4f}, {pace}", done - told
            )
        return max(told, done)

    def _best_model(self) -> DecoderModel:
        if not self._best:
            return self.trained.slim.to(self.stored)
        with torch.no_grad():
            for name, value in self._best.items():
                self.trained.parameters[name].copy_(value)
        return self.trained.folded(self.stored)

    def _save(self, folder: Path) -> None:
        tensors = {f"best.{name}": value for name, value in self._best.items()}
        for name, parameter in self.trained.parameters.items():
            moments = self._optimizer.state[parameter]
            tensors |= {f"value.{name}": parameter.detach()}
            tensors |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
        on_host = {name: value.cpu().contiguous() for name, value in tensors.items()}
        save_state(folder, self.identity, self.progress, on_host)

    def _resume(self) -> bool:
        found = load_state(self.options.state_folder, self.identity)
        if found is None:
            return False
        self.progress, tensors = replace(found[0]), found[1]
        for name, parameter in self.trained.parameters.items():
            parameter.data.copy_(tensors[f"value.{name}"])
            moments = {
                key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")
            }
            self._optimizer.state[parameter] = {"step": torch.tensor(float(self.progress.step)), **moments}
            if f"best.{name}" in tensors:
                self._best[name] = tensors[f"best.{name}"].to(parameter.device)
        return True


class _Clock:
    """Seconds of a run, those of earlier processes included."""

    def __init__(self, progress: Progress) -> None:
        self._before, self._started = progress.seconds, time.perf_counter()

    def now(self) -> float:
        return self._before + time.perf_counter() - self._started
