"""Requests with a seed on a CPU, whose prompts take more than one step.

vLLM 0.32 samples a token for every request in a step, also where the prompt is not read to its end; that
token is dropped, and the request's generator is set back by what one draw takes on a GPU. A generator on a
CPU cannot be set back so ("CPU Generator does not use offset"): the engine dies, with everybody's requests.
Here such a request draws nothing until its prompt is read, so there is nothing to set back, and its tokens
do not depend on the steps that its prompt took.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

PATCHED = ("_sample", "_bookkeeping_sync")
"""Methods of vLLM's model runner: what draws, and what sets generators back."""


def patch_seeded_requests() -> None:
    """Patch the model runner of this process, if it is the CPU's. May be called repeatedly."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    for name in PATCHED:
        if name not in vars(CPUModelRunner):
            setattr(CPUModelRunner, name, _without_unread_prompts(getattr(CPUModelRunner, name)))


def _without_unread_prompts(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, for which requests with an unread prompt have no generator."""

    @wraps(method)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        batch = self.input_batch
        unread = np.flatnonzero(self.discard_request_mask.np[: batch.num_reqs]).tolist()
        held = {index: batch.generators.pop(index) for index in unread if index in batch.generators}
        try:
            return method(self, *arguments, **keywords)
        finally:
            batch.generators.update(held)

    return call
