"""The process that times decode steps in vLLM's own engine. Started by `meter`; speaks JSON lines.

All engines live in this one process and take turns, a few steps each, so that whatever else the machine
does hits all alike. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from secateur.bench.json_worker import read_job
from secateur.config.serve import EngineOptions
from secateur.serve.engine.environment import kernel_choice, on_cpu, set_engine_environment
from secateur.serve.engine.memory import UNPLANNED_FRACTION

STEPS = 9  # of a turn; the first finds cold caches and is not counted
ROUNDS = 5
TOKENS = ROUNDS * STEPS + 8  # decoded by every sequence, at most


def main() -> None:
    """Read a job from stdin, write a line per engine started and per turn taken."""
    job, write_line = read_job()
    set_engine_environment(EngineOptions(), 1)
    if job["together"]:
        engines = []
        for folder in job["folders"]:
            engines.append(decoding_engine(folder, job, on_cpu()))
            write_line({"started": folder})
        for turn in _turns(engines):
            write_line(turn)
        return
    for index, folder in enumerate(job["folders"]):
        engine = decoding_engine(folder, job, on_cpu())
        write_line({"started": folder})
        for turn in _turns([engine]):
            write_line(turn | {"index": index})
        del engine


def _turns(engines: list[Any]) -> Iterator[dict[str, Any]]:
    for _ in range(ROUNDS):
        for index, engine in enumerate(engines):
            yield {"index": index, "ns": [_step(engine) for _ in range(STEPS)][1:]}


def _step(engine: Any) -> int:
    started = time.perf_counter_ns()
    engine.step()
    return time.perf_counter_ns() - started


def decoding_engine(folder: str, job: dict[str, Any], eager: bool) -> Any:
    """An engine that has read its prompts and decodes from now on, `batch` tokens per step."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.v1.engine.llm_engine import LLMEngine

    load_general_plugins()
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype=job["dtype"],
            max_model_len=job["context"] + TOKENS,
            max_num_seqs=job["batch"],
            max_num_batched_tokens=max(2048, job["context"] + TOKENS),
            enforce_eager=eager,
            **kernel_choice(compiled=not eager),
            enable_prefix_caching=False,
            async_scheduling=False,  # or steps overlap, and none has a time of its own
            kv_cache_memory_bytes=job["kv_cache_bytes"],
            gpu_memory_utilization=UNPLANNED_FRACTION,
            disable_log_stats=True,
        )
    )
    how = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, detokenize=False)
    length = max(1, job["context"] - TOKENS // 2)
    for number in range(job["batch"]):
        tokens = [(7 * number + 13 * position) % job["vocabulary"] for position in range(length)]
        engine.add_request(f"probe-{number}", TokensPrompt(prompt_token_ids=tokens), how)
    while len(engine.step()) < job["batch"]:
        pass  # prompts are read in chunks
    engine.step()
    return engine


if __name__ == "__main__":
    main()
