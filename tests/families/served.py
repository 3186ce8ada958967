"""What vLLM says of checkpoints: ``python -m tests.families.served FOLDER...``, one after the other."""

from __future__ import annotations

import gc
import json
import os
import sys
from hashlib import blake2b
from pathlib import Path

import torch

TOKENS: list[int] = torch.randint(2, 300, (48,), generator=torch.Generator().manual_seed(5)).tolist()
"""Longer than the sliding windows of the tiny models."""


def main() -> None:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
    for folder in map(Path, sys.argv[1:]):
        weights = blake2b((folder / "model.safetensors").read_bytes(), digest_size=8).hexdigest()
        try:
            engine = LLM(str(folder), dtype="float32", enforce_eager=True, max_model_len=256)
            (output,) = engine.generate([{"prompt_token_ids": TOKENS}], asked, use_tqdm=False)
            entries = zip(output.prompt_logprobs[1:], TOKENS[1:], strict=True)
            answer: object = {"logprobs": [entry[token].logprob for entry, token in entries]}
            del engine
        except Exception as error:  # whatever vLLM raises is the answer
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        gc.collect()
        folder.with_suffix(f".vllm-{weights}.json").write_text(json.dumps(answer))
        print(folder, flush=True)


if __name__ == "__main__":
    main()
