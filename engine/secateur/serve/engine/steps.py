"""How much an engine computes in one step."""

from __future__ import annotations

from secateur.config.serve import EngineOptions
from secateur.serve.engine.turns import with_spare

MAX_COMPLETIONS = 16
# What a step of a model of 0.1 to 0.3 G parameters computes in half a second on 2 cores; GPUs: vLLM's own.
CPU_STEP_TOKENS, GPU_STEP_TOKENS = 512, 2048


def num_sequences(options: EngineOptions) -> int:
    """Return the most sequences of one step, with room for all completions of one request."""
    return with_spare(max(options.max_sequences, MAX_COMPLETIONS))


def step_tokens(options: EngineOptions, cpu: bool) -> int:
    """Return the most tokens of one step, with room for every sequence."""
    tokens = options.step_tokens or (CPU_STEP_TOKENS if cpu else GPU_STEP_TOKENS)
    return max(tokens, 2 * num_sequences(options))
