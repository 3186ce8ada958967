"""Perplexity proxies computed without keeping logits in memory.

This package knows nothing of the engine. Every public function states, in its docstring, the torch
snippet that defines it; `reference` holds those definitions in fp64.
"""

from secateur_kernels.linear_loss import Teacher, linear_kl, linear_nll, prepare_teacher

__all__ = ["Teacher", "linear_kl", "linear_nll", "prepare_teacher"]
