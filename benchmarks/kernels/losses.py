"""Cases of the loss at the head and of the KL against a teacher.

Shape suffixes: N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import secateur_kernels
from benchmarks.kernels.case import (
    BASELINE,
    Call,
    Case,
    Inputs,
    Missing,
    Provider,
    compiled,
    tilings,
    triton_only_on_gpu,
)
from secateur_kernels import reference
from secateur_kernels.work import linear_loss_work

CHUNK = 1024
LOGIT_SPREAD = 3.0  # standard deviation of the logits: peaked, not flat
TEACHER_DISTANCE = 0.1


def cases() -> list[Case]:
    smollm2 = [(1024, 576, 49152, False, False), (4096, 576, 49152, False, True)]
    llama3 = [(8192, 4096, 128256, True, False)]
    return [
        case(*shape) for case in (loss_case, recomputed_kl_case, kept_kl_case) for shape in smollm2 + llama3
    ]


def loss_case(tokens: int, hidden: int, vocabulary: int, only_gpu: bool, long: bool) -> Case:
    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        hidden_NH, _, head_VH, target_N = _inputs(tokens, hidden, vocabulary, device, dtype)

        def ours(backend: str) -> Call:
            run = secateur_kernels.linear_loss
            return lambda: run(hidden_NH, head_VH, target_N, backend=backend).nll_N

        def tiled(tile: Any) -> Call:
            from secateur_kernels.triton_backend.linear_loss import losses

            def nll() -> Tensor:
                found = losses(hidden_NH, head_VH, target_N, tile=tile)
                return found.lse_N - found.logit_N

            return nll

        def nll_alone() -> Call:
            return lambda: secateur_kernels.linear_nll(hidden_NH, head_VH, target_N)

        providers = (
            Provider(BASELINE, lambda: lambda: _nll(hidden_NH, head_VH, target_N)),
            Provider("torch.compile", lambda: compiled(_nll, hidden_NH, head_VH, target_N)),
            Provider("chunks of 1024", lambda: lambda: _chunked(_nll, hidden_NH, head_VH, target_N)),
            Provider("liger-kernel", lambda: _liger(hidden_NH, head_VH, target_N)),
            Provider("cut-cross-entropy", lambda: _cut_cross_entropy(hidden_NH, head_VH, target_N)),
            Provider("linear_nll", nll_alone),
            Provider("linear_loss torch", lambda: ours("torch")),
            *tilings("linear_loss", device, dtype, tiled),
        )

        def true(rows: Tensor) -> Tensor:
            return reference.linear_nll(hidden_NH[rows], head_VH, target_N[rows])

        return Inputs(providers, true, tokens, 0)

    shape = f"N={tokens} H={hidden} V={vocabulary}"
    return Case(
        "linear loss",
        shape,
        only_gpu,
        long,
        lambda itemsize: linear_loss_work(tokens, hidden, vocabulary, itemsize),
        build,
    )


def recomputed_kl_case(tokens: int, hidden: int, vocabulary: int, only_gpu: bool, long: bool) -> Case:
    """The teacher is its hidden states: two products with the head."""

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        hidden_NH, teacher_NH, head_VH, target_N = _inputs(tokens, hidden, vocabulary, device, dtype)

        def ours(backend: str) -> Call:
            run = secateur_kernels.linear_loss
            teacher = secateur_kernels.teacher_states(teacher_NH, head_VH, backend=backend)

            def kl() -> Tensor:
                found = run(hidden_NH, head_VH, target_N, teacher=teacher, backend=backend).kl_N
                assert found is not None
                return found

            return kl

        def tiled(tile: Any) -> Call:
            from secateur_kernels.triton_backend.linear_loss import losses

            teacher = secateur_kernels.teacher_states(teacher_NH, head_VH)
            states = {"teacher_NH": teacher.hidden_NH, "teacher_lse_N": teacher.lse_N}

            def kl() -> Tensor:
                found = losses(hidden_NH, head_VH, target_N, tile=tile, **states)
                assert found.kl_N is not None
                return found.kl_N

            return kl

        providers = (
            Provider(BASELINE, lambda: lambda: _kl(hidden_NH, head_VH, teacher_NH)),
            Provider("torch.compile", lambda: compiled(_kl, hidden_NH, head_VH, teacher_NH)),
            Provider("chunks of 1024", lambda: lambda: _chunked(_kl, hidden_NH, head_VH, teacher_NH)),
            Provider("linear_loss torch", lambda: ours("torch")),
            *tilings("linear_kl", device, dtype, tiled),
        )

        def true(rows: Tensor) -> Tensor:
            return reference.linear_kl(hidden_NH[rows], teacher_NH[rows], head_VH)

        return Inputs(providers, true, tokens, 0)

    return Case(
        "KL, teacher recomputed",
        f"N={tokens} H={hidden} V={vocabulary}",
        only_gpu,
        long,
        lambda itemsize: linear_loss_work(tokens, hidden, vocabulary, itemsize, teacher_hidden=True),
        build,
    )


def kept_kl_case(tokens: int, hidden: int, vocabulary: int, only_gpu: bool, long: bool) -> Case:
    """The teacher's probabilities are kept: one product, and N x V probabilities to read."""

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        hidden_NH, teacher_NH, head_VH, target_N = _inputs(tokens, hidden, vocabulary, device, dtype)

        def eager() -> Call:
            logits_NV = (teacher_NH @ head_VH.T).float()
            log_p_NV = torch.log_softmax(logits_NV, -1).to(dtype)
            return lambda: _kl_kept(hidden_NH, head_VH, log_p_NV)

        def ours() -> Call:
            teacher = secateur_kernels.prepare_teacher(teacher_NH, head_VH, target_N)
            return lambda: secateur_kernels.linear_kl(hidden_NH, teacher, head_VH, target_N)[0]

        def true(rows: Tensor) -> Tensor:
            return reference.linear_kl(hidden_NH[rows], teacher_NH[rows], head_VH)

        return Inputs((Provider(BASELINE, eager), Provider("linear_kl", ours)), true, tokens, 0)

    def work(itemsize: int) -> secateur_kernels.work.Work:
        loss = linear_loss_work(tokens, hidden, vocabulary, itemsize)
        return loss + secateur_kernels.work.Work(0, itemsize * tokens * vocabulary)

    return Case("KL, teacher kept", f"N={tokens} H={hidden} V={vocabulary}", only_gpu, long, work, build)


def _inputs(
    tokens: int, hidden: int, vocabulary: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden_NH = torch.randn(tokens, hidden, device=device)
    teacher_NH = hidden_NH + TEACHER_DISTANCE * torch.randn(tokens, hidden, device=device)
    head_VH = torch.randn(vocabulary, hidden, device=device) * (LOGIT_SPREAD / hidden**0.5)
    target_N = torch.randint(vocabulary, (tokens,), device=device)
    return hidden_NH.to(dtype), teacher_NH.to(dtype), head_VH.to(dtype), target_N


def _nll(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Tensor:
    return functional.cross_entropy((hidden_NH @ head_VH.T).float(), target_N, reduction="none")


def _kl(hidden_NH: Tensor, head_VH: Tensor, teacher_NH: Tensor) -> Tensor:
    log_p_NV = torch.log_softmax((teacher_NH @ head_VH.T).float(), -1)
    log_q_NV = torch.log_softmax((hidden_NH @ head_VH.T).float(), -1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def _kl_kept(hidden_NH: Tensor, head_VH: Tensor, log_p_NV: Tensor) -> Tensor:
    log_q_NV = torch.log_softmax((hidden_NH @ head_VH.T).float(), -1)
    return (log_p_NV.float().exp() * (log_p_NV.float() - log_q_NV)).sum(-1)


def _chunked(function: Callable[..., Tensor], hidden_NH: Tensor, head_VH: Tensor, other: Tensor) -> Tensor:
    pairs = zip(hidden_NH.split(CHUNK), other.split(CHUNK), strict=True)
    return torch.cat([function(rows, head_VH, beside) for rows, beside in pairs])


def _liger(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Call:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

    triton_only_on_gpu(hidden_NH.device)

    def call() -> Tensor:
        found: Tensor = fused(hidden_NH, head_VH, target_N, reduction="none")
        return found

    return call


def _cut_cross_entropy(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Call:
    from cut_cross_entropy import linear_cross_entropy

    impl = "cce" if hidden_NH.device.type == "cuda" else "torch_compile"

    def call() -> Tensor:
        found: Tensor = linear_cross_entropy(hidden_NH, head_VH, target_N, impl=impl, reduction="none")
        return found

    try:
        call()
    except Exception as error:
        raise Missing(f"{impl}: {str(error).splitlines()[0][:120]}") from error
    return call
