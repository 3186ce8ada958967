"""The server of the other tests measured: by itself, and by the command in each of its protocols."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from secateur.serve.process import ServerProcess
from secateur.v1 import benchmarks_pb2 as wire
from secateur.v1 import benchmarks_pb2_grpc


def test_a_server_measures_itself(server: ServerProcess) -> None:
    request = wire.RunBenchmarkRequest(
        model="stock",
        compare=["llama"],
        closed=wire.ClosedLoad(concurrencies=[2]),
        seconds=1.5,
        rounds=3,
        input_tokens=20,
        output_tokens=6,
    )
    with grpc.insecure_channel(server.address) as channel:
        said = list(benchmarks_pb2_grpc.BenchmarkServiceStub(channel).RunBenchmark(request, timeout=120))
    done = said[-1].benchmark
    assert done.state == wire.BENCHMARK_STATE_SUCCEEDED, done.error
    rows = json_format.MessageToDict(done.result)["results"]
    assert [row["model"] for row in rows] == ["stock", "llama"]
    for row in rows:
        assert row["completed"] >= 2 and row["failed"] == 0
        assert row["engine"]["median_prefill_ms"] > 0 and row["cached_prompt_tokens"] == 0


@pytest.mark.parametrize("scheme", ["", "oip://"])
def test_the_command(server: ServerProcess, tmp_path: Path, scheme: str) -> None:
    found = bench(
        *("--target", f"{scheme}{server.address}", "--model", "stock"),
        *("--concurrency", "1,3", "--requests", "6", "--input-len", "20", "--output-len", "7"),
        *("--out", str(tmp_path / "out")),
    )
    for row in found["results"]:
        assert (row["completed"], row["failed"]) == (6, 0)
        assert row["mean_tpot_ms"] > 0 and row["mean_e2el_ms"] > row["mean_ttft_ms"] > 0
    raw = json.loads((tmp_path / "out" / "report.json").read_text())
    assert raw["results"][0]["output_lens"] == [7] * 6
    lengths = raw["results"][0]["input_lens"]
    assert lengths == [20] * 6 if not scheme else all(5 < length < 80 for length in lengths)


def bench(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "secateur.cli.app", "bench", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
