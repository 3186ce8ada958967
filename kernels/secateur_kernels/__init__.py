"""Structured masks and perplexity proxies: what evaluating a pruned candidate is made of.

This package knows nothing of the engine. Every public function states, in its docstring, the torch
snippet that defines it; `reference` holds those definitions in fp64, `work` the least each must cost.
"""

from secateur_kernels.arguments import KernelArgumentError
from secateur_kernels.attention import Heads, Packing, attention_inner, masked_attention
from secateur_kernels.backend import Backend, KernelBackendUnavailable
from secateur_kernels.linear_loss import (
    LinearLoss,
    Teacher,
    TeacherStates,
    TeacherTopK,
    linear_kl,
    linear_loss,
    linear_nll,
    prepare_teacher,
    teacher_states,
    teacher_top_k,
)
from secateur_kernels.mlp import Activation, gated_inner, masked_mlp, nested_mlp
from secateur_kernels.projection import ProjectionTable, masked_projection, nested_projection

RESULTS_VERSION = 1  # of the Triton kernels; one more when a change alters what they compute

__all__ = [
    "Activation",
    "Backend",
    "KernelBackendUnavailable",
    "KernelArgumentError",
    "Heads",
    "LinearLoss",
    "Packing",
    "ProjectionTable",
    "RESULTS_VERSION",
    "Teacher",
    "TeacherStates",
    "TeacherTopK",
    "attention_inner",
    "gated_inner",
    "linear_kl",
    "linear_loss",
    "linear_nll",
    "masked_attention",
    "masked_mlp",
    "masked_projection",
    "nested_mlp",
    "nested_projection",
    "prepare_teacher",
    "teacher_states",
    "teacher_top_k",
]
