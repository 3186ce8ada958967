"""Opens checkpoints with transformers alone: a process of its own, in which secateur cannot be imported.

One JSON document per line on stdin, ``{"folder": ..., "text": ..., "tokens": N}``; one answer per line on
stdout, with ``tokens`` and ``loss``, or with ``error``. It ends with its stdin.

Weights stay where transformers maps them, on disk, in the dtype they have there. What is computed is
computed in float32, one slice of a matrix at a time, so that a model of any size takes little memory.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from functools import partial
from typing import Any

ROWS = 8192  # of a matrix, widened to float32 at a time


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    for name in ("secateur", "secateur_kernels"):
        sys.modules[name] = None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(prefix="secateur-verify-") as modules:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "CUDA_VISIBLE_DEVICES": ""}
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        for line in sys.stdin:
            try:
                answer = _measure(**json.loads(line)) | {"transformers": transformers.__version__}
            except Exception as error:  # whatever a checkpoint makes transformers raise is the answer
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


def _measure(folder: str, text: str, tokens: int) -> dict[str, Any]:
    """Tokens of the beginning of a text, and the mean loss on them in nats per token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        has_code = "auto_map" in json.load(file)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=has_code)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=has_code).eval()
    _compute_in_float32(model)
    tokens_BT = torch.tensor([ids])
    with torch.inference_mode():
        logits_TV = model(tokens_BT, use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits_TV, tokens_BT[0, 1:])
    return {"tokens": ids, "loss": float(loss)}


def _compute_in_float32(model: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(_linear, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.Embedding):
            module.forward = partial(_embedding, module)  # type: ignore[method-assign]
        else:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()


def _embedding(module: Any, ids: Any) -> Any:
    from torch.nn import functional

    # Gemma's multiplier, rounded to the dtype of the weights as where it is served.
    scale = getattr(module, "embed_scale", None)
    rows = functional.embedding(ids, module.weight).float()
    return rows if scale is None else rows * scale.to(module.weight.dtype).float()


def _linear(module: Any, x: Any) -> Any:
    import torch
    from torch.nn import functional

    parts = [functional.linear(x, rows.float()) for rows in module.weight.split(ROWS)]
    output = torch.cat(parts, dim=-1)
    return output if module.bias is None else output + module.bias.float()


if __name__ == "__main__":
    main()
