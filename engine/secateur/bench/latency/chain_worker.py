"""The process that times chains of the plugin's own layers, inside vLLM's engine. Started by `chain_meter`.

One engine runs the made-up model of `chains`. In one of its decode steps, where vLLM has set up keys, values
and metadata, all chains take turns; on a GPU each as a CUDA graph, as a served model would run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from secateur.bench.json_worker import read_job
from secateur.bench.latency.worker import ROUNDS, STEPS, decoding_engine
from secateur.config.serve import EngineOptions
from secateur.serve.engine.environment import set_engine_environment


def main() -> None:
    """Read a job from stdin, write a line per turn of a chain."""
    job, write_line = read_job()
    set_engine_environment(EngineOptions(), 1)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model has to be in this process
    engine = decoding_engine(job["folder"], job, eager=True)
    engine.apply_model(lambda model: _time_next_step(model.model, job["chains"], write_line))
    engine.step()


def _time_next_step(
    model: Any, chains: list[list[int]], write_line: Callable[[dict[str, Any]], None]
) -> None:
    forward = model.forward

    def timed(input_ids: Any, positions: Any, *arguments: Any, **keywords: Any) -> Any:
        model.forward = forward
        hidden_BD = model.embed_input_ids(input_ids)
        for turn in _turns(model, chains, positions, hidden_BD):
            write_line(turn)
        return forward(input_ids, positions, *arguments, **keywords)

    model.forward = timed


def _turns(model: Any, chains: list[list[int]], positions: Any, hidden_BD: Any) -> Iterator[dict[str, Any]]:
    # Norms add into their arguments: both grow from call to call unless they are cleared.
    stream_BD, residual_BD = hidden_BD.clone(), hidden_BD.clone()

    def run(first: int, last: int) -> None:
        stream, residual = stream_BD, residual_BD
        for index in range(first, last):
            stream, residual = model.layers[index](positions, stream, residual)

    calls = [_prepared(partial(run, *chain), hidden_BD.is_cuda) for chain in chains]
    clock = _device_nanoseconds if hidden_BD.is_cuda else _nanoseconds
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            stream_BD.copy_(hidden_BD)
            residual_BD.copy_(hidden_BD)
            yield {"chain": index, "ns": [clock(call) for _ in range(STEPS)][1:]}


def _prepared(run: Callable[[], None], on_gpu: bool) -> Callable[[], None]:
    """The same work without launches one by one, on a GPU."""
    if not on_gpu:
        return run
    import torch

    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _nanoseconds(call: Callable[[], None]) -> int:
    started = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started


def _device_nanoseconds(call: Callable[[], None]) -> int:
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return round(begin.elapsed_time(end) * 1e6)


if __name__ == "__main__":
    main()
