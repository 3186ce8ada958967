"""A seeded request whose prompt takes several steps: the engine lives, and the tokens are those of one step.

With a real engine on a CPU, in processes of its own.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from secateur.serve.engine.environment import on_cpu

pytestmark = pytest.mark.skipif(not on_cpu(), reason="only generators of a CPU cannot be set back")

SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=128, max_num_batched_tokens=128,
              max_num_seqs=8, enable_prefix_caching=False, kv_cache_memory_bytes=16 << 20)
    prompts = [{"prompt_token_ids": [3 + (7 * i + n) % 250 for i in range(100)]} for n in range(5)]
    how = [SamplingParams(temperature=1.0, seed=n, max_tokens=6, ignore_eos=True) for n in range(5)]
    tokens = lambda outputs: [list(output.outputs[0].token_ids) for output in outputs]
    alone = [tokens(llm.generate([prompt], [one], use_tqdm=False))[0] for prompt, one in zip(prompts, how)]
    together = tokens(llm.generate(prompts, how, use_tqdm=False))
    json.dump([alone, together], open(sys.argv[2], "w"))
"""


@pytest.mark.slow
def test_tokens_do_not_depend_on_the_steps_of_the_prompt(
    make_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """Five prompts of 100 tokens, 128 tokens a step: alone each takes one, together all but the first two."""
    script, answer = tmp_path / "seeds.py", tmp_path / "answer.json"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, make_tiny("llama"), answer],
        env=os.environ | {"TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone, together = json.loads(answer.read_text())
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == 5


def test_vllm_still_needs_it() -> None:
    """Once this fails, `seeded_requests` may go."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    assert "get_offset" in inspect.getsource(GPUModelRunner._bookkeeping_sync)
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().get_offset()
