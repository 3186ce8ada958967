"""All foreign clients on the real model, cut to a shape that differs between layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.export import export
from secateur.checkpoint.source import ModelSource
from secateur.model.architecture import Architecture
from secateur.prune.surgery import build_slim_model
from secateur.serve.process import served
from tests.serve.foreign.installed import node_clients, python_clients
from tests.serve.foreign.running import HERE, PROMPT, ROOT, continuation, run

pytestmark = pytest.mark.slow

MODEL = "smollm2"
SHAPE = Architecture((3, 3, 3, 3, 2) * 6, (1536, 1408, 1536) * 10)
# In bfloat16 a batch of another size may round to another token.
OPTIONS = ("--dtype", "float32", "--max-model-len", "640", "--kv-cache-memory", "64MiB")


@pytest.fixture(scope="module")
def folder(smollm2: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = smollm2.load_model()
    library = BlockLibrary(model, None, torch.float32)
    target = tmp_path_factory.mktemp("real") / "slim"
    export(build_slim_model(library, SHAPE), smollm2, target, None, torch.float32)
    return target


def test_every_client_gets_the_same_text(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    binaries, modules = python_clients(), node_clients() / "node_modules"
    with served({MODEL: folder}, *OPTIONS, "--state-dir", str(tmp_path)) as server:
        expected = continuation(server.address, MODEL)
        called = (server.address, MODEL)
        triton = run(binaries / "python", HERE / "use_tritonclient.py", *called)
        aio = run(binaries / "python", HERE / "use_tritonclient_aio.py", *called)
        kserve = run(binaries / "python", HERE / "use_kserve.py", *called)
        node = run("node", HERE / "use_grpc.js", *called, ROOT / "proto", NODE_PATH=str(modules))
        sampling = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
        data = json.dumps({"model": MODEL, "text": PROMPT, "sampling": sampling})
        url = f"http://{server.address}/secateur.v1.InferenceService/Generate"
        options = ("--protocol", "grpc", "--http2-prior-knowledge", "--data", data)
        buf = run(binaries / "buf", "curl", *options, url, HOME=str(tmp_path))
    texts = {
        "tritonclient": triton["infer"]["text"],
        "tritonclient stream": triton["stream"]["texts"]["a"],
        "tritonclient.aio": aio["infer"],
        "tritonclient.aio stream": aio["stream"],
        "kserve": kserve["raw"],
        "grpc-js": node["stream"],
        "grpc-js, open inference": node["open_inference"],
        "buf curl": buf["completions"][0]["text"],
    }
    assert texts == dict.fromkeys(texts, expected)
    assert expected.isascii()
    assert (triton["cancelled"], node["cancelled"]) == ("StatusCode.CANCELLED", "CANCELLED")
