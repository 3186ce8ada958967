"""Do two load generators agree? `vllm bench serve` and `secateur bench` on the same server, in turns.

    python -m benchmarks.bench_agreement --checkpoint DIR

vLLM's stock driver (vllm.benchmarks.serve.benchmark) measures an OpenAI server of vLLM's over HTTP, and a
`secateur serve` over gRPC through a request function registered with it; ours measures the same servers under
the same load: so many clients, so many requests, prompts of random tokens, fixed lengths. Medians of all
requests are compared, and round by round, as both hit whatever else the machine does. Writes
benchmarks/results/DEVICE-DATE-bench-agreement.json; never edit that by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.host import cpu, write_result
from secateur.bench.load.journal import BenchmarkLog
from secateur.bench.load.prompt import RandomTokens
from secateur.bench.load.record import Phase
from secateur.bench.load.stage import ClosedLoop, OpenLoop
from secateur.bench.metrics.row import METRICS
from secateur.bench.metrics.statistics import ratio_of_rounds
from secateur.bench.run import run
from secateur.client.endpoint import Endpoint
from secateur.config.bench import BenchOptions
from secateur.progress import SilentReporter

MODEL = "model"
TOLERANCE = 0.05
COMPARED = ("ttft", "tpot", "itl", "e2el")
TOKEN_IDS = range(1000, 40_000)
ENGINE = {"max_sequences": 16, "kv_cache": "256MiB", "threads": 1}


def main() -> None:
    arguments = _arguments()
    protocols = {}
    if "grpc" in arguments.protocols:
        with _secateur(arguments.checkpoint) as address:
            protocols["grpc"] = asyncio.run(_measured("grpc", address, arguments))
    if "http" in arguments.protocols:
        with _vllm(arguments.checkpoint) as address:
            protocols["http"] = asyncio.run(_measured("http", address, arguments))
    worst = max(
        abs(metric["ratio"] - 1)
        for loads in protocols.values()
        for load in loads
        for metric in load["metrics"].values()
    )
    result = {
        "device": cpu(),
        "protocol": f"secateur bench over vllm bench serve, in turns, {arguments.rounds} rounds of "
        f"{arguments.requests} requests, {arguments.input_len} tokens in, {arguments.output_len} out, "
        f"prefix caching off, engine with {ENGINE}",
        "load_average": os.getloadavg()[0],
        "tolerance": TOLERANCE,
        "protocols": protocols,
        "worst": round(worst, 4),
        "reached": worst <= TOLERANCE,
    }
    print(write_result("bench-agreement", result).read_text(), end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--protocols", nargs="+", default=["grpc", "http"], choices=["grpc", "http"])
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--rate", type=float, nargs="*", default=[1.0])
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=32)
    return parser.parse_args()


async def _measured(protocol: str, address: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    loads: list[ClosedLoop | OpenLoop] = [ClosedLoop(count) for count in arguments.concurrency]
    # Constant: two Poisson processes of a few dozen requests differ more than any two generators.
    loads += [OpenLoop(rate, poisson=False) for rate in arguments.rate]
    found = []
    for place, load in enumerate(loads):
        theirs: list[dict[str, list[float]]] = []
        ours: list[dict[str, list[float]]] = []
        for number in range(arguments.rounds):
            seed = 1000 * place + number
            theirs.append(await _theirs(protocol, address, load, seed, arguments))
            ours.append(await _ours(address, load, seed + 500, arguments))
        found.append({"load": load.to_json(), "metrics": _compared(theirs, ours)})
        print(f"{time.strftime('%H:%M:%S')} {protocol} {found[-1]}", file=sys.stderr, flush=True)
    return found


def _compared(theirs: list[dict[str, list[float]]], ours: list[dict[str, list[float]]]) -> dict[str, Any]:
    metrics = {}
    for metric in COMPARED:
        pooled = [
            float(np.median([value for part in rounds for value in part[metric]]))
            for rounds in (theirs, ours)
        ]
        medians = [[float(np.median(part[metric])) for part in rounds] for rounds in (theirs, ours)]
        ratio = ratio_of_rounds(*medians)
        assert ratio is not None
        metrics[metric] = {
            "vllm_ms": round(pooled[0], 3),
            "secateur_ms": round(pooled[1], 3),
            "ratio": round(pooled[1] / pooled[0], 4),
            "ratio_of_rounds": round(ratio.value, 4),
            "interval": ratio.interval and [round(ratio.interval.low, 4), round(ratio.interval.high, 4)],
        }
    return metrics


async def _ours(
    address: str, load: ClosedLoop | OpenLoop, seed: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    kind: dict[str, Any] = {}
    if isinstance(load, ClosedLoop):
        kind["concurrency"] = (load.concurrency,)
    else:
        kind |= {"rate": (load.rate,), "arrivals": "poisson" if load.poisson else "constant"}
    options = BenchOptions(
        target=address,
        model=MODEL,
        requests=arguments.requests,
        input_len=arguments.input_len,
        output_len=arguments.output_len,
        seed=seed,
        **kind,
    )
    log: BenchmarkLog = await run(options, Endpoint(), None, SilentReporter(), asyncio.Event())
    measured = [record for record in log.records if record.phase is Phase.MEASURED]
    assert all(record.ok for record in measured), measured
    return {metric: [v for record in measured for v in METRICS[metric](record)] for metric in COMPARED}


async def _theirs(
    protocol: str, address: str, load: ClosedLoop | OpenLoop, seed: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """What vLLM's driver measures."""
    from vllm.benchmarks.datasets.datasets import SampleRequest
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS
    from vllm.benchmarks.serve import TaskType, benchmark

    ASYNC_REQUEST_FUNCS["secateur"] = SecateurRequests(address)
    prompts = RandomTokens(TOKEN_IDS, seed)
    requests = [
        SampleRequest(
            prompt=list(prompts.make(number, arguments.input_len).token_ids or ()),
            prompt_len=arguments.input_len,
            expected_output_len=arguments.output_len,
        )
        for number in range(arguments.requests)
    ]
    closed = isinstance(load, ClosedLoop)
    with redirect_stdout(sys.stderr):
        found = await benchmark(
            task_type=TaskType.GENERATION,
            endpoint_type="secateur" if protocol == "grpc" else "openai",
            api_url=f"{address}/v1/completions",
            base_url=address,
            model_id=MODEL,
            model_name=MODEL,
            tokenizer=None,
            input_requests=requests,
            logprobs=None,
            request_rate=float("inf") if closed else load.rate,
            burstiness=float("inf") if not closed else 1.0,
            disable_tqdm=True,
            num_warmups=2,
            profile=False,
            selected_percentile_metrics=["ttft", "tpot", "itl", "e2el"],
            selected_percentiles=[99.0],
            ignore_eos=True,
            goodput_config_dict={},
            max_concurrency=load.concurrency if closed else None,
            lora_modules=None,
            extra_headers=None,
            extra_body={"temperature": 0.0},
            ready_check_timeout_sec=0,
        )
    assert found["completed"] == arguments.requests, found["errors"]
    lengths, latencies, ttfts = found["output_lens"], found["latencies"], found["ttfts"]
    return {
        "ttft": [1e3 * value for value in ttfts],
        "tpot": [
            1e3 * (latency - ttft) / (length - 1)
            for latency, ttft, length in zip(latencies, ttfts, lengths, strict=True)
        ],
        "itl": [1e3 * gap for gaps in found["itls"] for gap in gaps],
        "e2el": [1e3 * value for value in latencies],
    }


class SecateurRequests:
    """A request function of vLLM's driver that calls StreamGenerate; written against the stubs alone."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stub: Any = None

    async def __call__(self, request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        import grpc
        from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

        from secateur.v1 import inference_pb2, inference_pb2_grpc

        if self._stub is None:
            self._stub = inference_pb2_grpc.InferenceServiceStub(grpc.aio.insecure_channel(self._address))
        request = inference_pb2.GenerateRequest(
            model=request_func_input.model,
            token_ids=inference_pb2.TokenIds(ids=request_func_input.prompt),
            sampling=inference_pb2.SamplingParameters(
                max_tokens=request_func_input.output_len, temperature=0.0, ignore_eos=True
            ),
        )
        output = RequestFuncOutput(prompt_len=request_func_input.prompt_len)
        output.start_time = latest = time.perf_counter()
        try:
            async for response in self._stub.StreamGenerate(request, timeout=600):
                if not response.token_ids:
                    continue
                now = time.perf_counter()
                if output.ttft:
                    output.itl.append(now - latest)
                else:
                    output.ttft = now - output.start_time
                latest = now
                output.output_tokens += len(response.token_ids)
            output.latency = latest - output.start_time
            output.success = bool(output.ttft)
        except grpc.aio.AioRpcError as error:
            output.error = str(error)
        return output


@contextmanager
def _secateur(checkpoint: Path) -> Iterator[str]:
    from secateur.serve.process import served

    options = ["--max-sequences", ENGINE["max_sequences"], "--kv-cache-memory", ENGINE["kv_cache"]]
    options += ["--threads", ENGINE["threads"], "--no-prefix-caching", "--max-model-len", 2048]
    with served({MODEL: checkpoint}, *map(str, options)) as server:
        yield server.address


@contextmanager
def _vllm(checkpoint: Path) -> Iterator[str]:
    """vLLM's OpenAI server with the same settings of the engine."""
    from secateur.config.serve import EngineOptions
    from secateur.config.sizes import parse_bytes
    from secateur.serve.engine.environment import set_engine_environment

    environment = dict(os.environ)
    set_engine_environment(EngineOptions(threads=int(ENGINE["threads"])), 1, environment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-num-seqs", str(ENGINE["max_sequences"]), "--max-model-len", "2048", "--enforce-eager"]
    command += ["--no-enable-prefix-caching", "--disable-log-stats", "--disable-uvicorn-access-log"]
    command += ["--kv-cache-memory-bytes", str(parse_bytes("kv", str(ENGINE["kv_cache"])))]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, process_group=0)
    address = f"http://127.0.0.1:{port}"
    try:
        while not _answers(f"{address}/v1/models"):
            if process.poll() is not None:
                raise SystemExit(f"vLLM's server ended with exit status {process.returncode}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
