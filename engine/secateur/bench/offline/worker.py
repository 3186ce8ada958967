"""The process that times vLLM's engine. Started by `meter`; speaks JSON lines.

All engines live in this one process and take turns, so that whatever else the machine does hits all alike.
What the machine can do at all is measured in the same process, with the same threads, between the turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from secateur.bench.json_worker import read_job
from secateur.bench.offline.ceilings import matmul_rate, memory_bandwidth
from secateur.config.serve import EngineOptions
from secateur.serve.engine.environment import kernel_choice, on_cpu, set_engine_environment
from secateur.serve.engine.memory import UNPLANNED_FRACTION


def main() -> None:
    """Read a job from stdin, write a line per engine started and per turn taken."""
    job, write_line = read_job()
    set_engine_environment(EngineOptions(threads=job["threads"]), 1)
    engines = {}
    for name, folder in job["folders"].items():
        engines[name] = _engine(folder, job)
        write_line({"started": name})
    for number in range(-1, job["rounds"]):  # the first round warms up
        for turn in _round(engines, job, number):
            write_line(turn if number >= 0 else {"warmed": turn})


def _round(engines: dict[str, Any], job: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    yield {"bandwidth": memory_bandwidth()}
    yield {"product_rate": matmul_rate(job["dtype"])}
    for batch in job["batches"]:
        for name, engine in engines.items():
            turn = {"model": name, "batch": batch, "round": number}
            yield {**turn, "prefill_ns": _prefill(engine, job, batch, number)}
            yield {**turn, "decode_ns": _decode(engine, job, batch, number)}


def _prefill(engine: Any, job: dict[str, Any], batch: int, number: int) -> int:
    """Nanoseconds until all of a batch of prompts have their first token."""
    for member in range(batch):
        _add(engine, job, batch, number, member, job["input_tokens"], 1)
    started = time.perf_counter_ns()
    while engine.has_unfinished_requests():
        engine.step()
    return time.perf_counter_ns() - started


def _decode(engine: Any, job: dict[str, Any], batch: int, number: int) -> list[int]:
    """Nanoseconds of every step but the first, each a token of every sequence."""
    length = max(1, job["context"] - job["steps"] // 2)
    identities = [
        _add(engine, job, batch, number, member, length, job["steps"] + 8) for member in range(batch)
    ]
    while len(engine.step()) < batch:
        pass  # prompts are read in chunks
    times = []
    for _ in range(job["steps"]):
        started = time.perf_counter_ns()
        engine.step()
        times.append(time.perf_counter_ns() - started)
    engine.abort_request(identities)
    while engine.has_unfinished_requests():
        engine.step()
    return times[1:]


def _add(
    engine: Any, job: dict[str, Any], batch: int, number: int, member: int, tokens: int, output: int
) -> str:
    from vllm import SamplingParams, TokensPrompt

    start = 7919 * (number + 2) + 31 * member + batch
    prompt = [100 + (start + 13 * position) % (job["vocabulary"] - 100) for position in range(tokens)]
    how = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True, detokenize=False)
    identity = f"{output}-{batch}-{number}-{member}"
    engine.add_request(identity, TokensPrompt(prompt_token_ids=prompt), how)
    return identity


def _engine(folder: str, job: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.v1.engine.llm_engine import LLMEngine

    load_general_plugins()
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            dtype=job["dtype"],
            max_model_len=job["max_model_len"],
            max_num_seqs=max(job["batches"]),
            enforce_eager=on_cpu(),
            **kernel_choice(compiled=not on_cpu()),
            enable_prefix_caching=False,
            async_scheduling=False,  # or steps overlap, and none has a time of its own
            kv_cache_memory_bytes=job["kv_cache_bytes"][folder],
            gpu_memory_utilization=UNPLANNED_FRACTION,
            disable_log_stats=True,
        )
    )


if __name__ == "__main__":
    main()
