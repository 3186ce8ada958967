"""Which kernels an engine computes with, where vLLM's own choice is not the best there is."""

from __future__ import annotations

from typing import Any

from secateur.serve.engine.environment import on_cpu
from secateur.vllm_plugin.cpu_norms import CPU_NORMS, NORMS


def kernel_choice(compiled: bool) -> dict[str, Any]:
    """Return arguments of vLLM's engine; a compiled model fuses its norms by itself."""
    if compiled or not on_cpu():
        return {}
    return {"ir_op_priority": {name: [CPU_NORMS] for name in NORMS}}
