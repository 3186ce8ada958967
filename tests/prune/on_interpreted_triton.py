"""A whole prune run on CPU tensors, by torch or with every kernel run by Triton's interpreter.

    TRITON_INTERPRET=1 python -m tests.prune.on_interpreted_triton torch|triton MODEL TEXT OUT

Prints the architecture, the KL, and how many kernels were launched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from triton.runtime.interpreter import GridExecutor

import secateur_kernels.backend as backends
from secateur.config.prune import PruneOptions
from secateur.evaluation import opening, teachers
from secateur.evaluation.batch import BatchEvaluator
from secateur.model.compute import Compute
from secateur.progress import SilentReporter
from secateur.prune import prepared_run
from secateur.prune.pipeline import prune


def main(backend: str, model: str, text: str, out: Path) -> dict[str, Any]:
    options = PruneOptions(
        model=model,
        out=out,
        keep=(0.7,),
        corpus=(text,),
        evaluations=4,
        window=32,
        calibration_tokens=800,
        search_windows=4,
        quantum=64,
    )
    launches = 0
    chosen, launch = backends.select_backend, GridExecutor.__call__

    def select(asked: str, tensor: torch.Tensor, *form: Any) -> Any:
        return chosen(backend if asked == "auto" else asked, tensor, *form)

    def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal launches
        launches += 1
        return launch(self, *arguments, **keywords)

    with (
        patch.object(backends, "select_backend", select),
        patch.object(GridExecutor, "__call__", counted),
        patch.object(prepared_run, "choose_compute", lambda *_: Compute.on_cpu(torch.float32)),
        # As on a GPU.
        patch.object(opening, "PrefixEvaluator", BatchEvaluator),
        patch.object(teachers, "keeps_states", lambda kind: True),
    ):
        record = prune(options, SilentReporter())
    return {"architecture": record["architecture"], "kl": record["search"]["kl"], "launches": launches}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
