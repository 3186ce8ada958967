"""Running a foreign client, and what it should get."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import grpc

from secateur.v1 import inference_pb2, inference_pb2_grpc

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
PROMPT = "Once upon a time"


def continuation(address: str, model: str) -> str:
    """Return what our own service continues `PROMPT` with, greedily for 12 tokens."""
    request = inference_pb2.GenerateRequest(model=model, text=PROMPT)
    request.sampling.temperature, request.sampling.ignore_eos, request.sampling.max_tokens = 0, True, 12
    with grpc.insecure_channel(address) as channel:
        response = inference_pb2_grpc.InferenceServiceStub(channel).Generate(request, timeout=60)
    return str(response.completions[0].text)


def run(*command: str | Path, **environment: str) -> Any:
    """Run a client and return the JSON it prints."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
