"""On the real model: what vLLM serves over gRPC is what was exported, for uniform and per-layer shapes.

The reference is plain transformers on the exported folder, in the dtype that is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.export import export
from secateur.checkpoint.source import ModelSource
from secateur.client import Client
from secateur.model.architecture import Architecture
from secateur.prune.surgery import build_slim_model
from secateur.serve.process import ServerProcess, served
from secateur.vllm_plugin.plugin import register_config

pytestmark = pytest.mark.slow

# Mild cuts: a model that is broken amplifies bf16 rounding until nothing can be compared.
SHAPES = {
    "uniform": Architecture((3,) * 30, (1408,) * 30),
    "per-layer": Architecture((3, 3, 3, 3, 2) * 6, (1536, 1408, 1536) * 10),
    "removed": Architecture(
        (3,) * 20 + (0, 0) + (3,) * 8, (1536,) * 15 + (0,) + (1536,) * 5 + (0,) + (1408,) * 8
    ),
}
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}


@pytest.fixture(scope="module")
def folders(smollm2: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every shape, cut without repair and exported in float32."""
    model = smollm2.load_model()
    library = BlockLibrary(model, None, torch.float32)
    root = tmp_path_factory.mktemp("real")
    for name, shape in SHAPES.items():
        export(build_slim_model(library, shape), smollm2, root / name, None, torch.float32)
    return {name: root / name for name in SHAPES}


@pytest.fixture(scope="module", params=list(TOLERANCE))
def server(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[ServerProcess]:
    pytest.importorskip("vllm")
    options = ("--dtype", request.param, "--max-model-len", "640", "--kv-cache-memory", "64MiB")
    with served(folders, *options) as running:
        yield running


@pytest.mark.parametrize("shape", list(SHAPES))
@torch.no_grad()
def test_served_logprobs_are_those_of_the_exported_model(
    server: ServerProcess, folders: dict[str, Path], english: str, shape: str
) -> None:
    register_config()
    from secateur.checkpoint.modeling_secateur import SecateurForCausalLM

    dtype = next(model["dtype"] for model in server.document["models"] if model["name"] == shape)
    with Client(server.address) as client:
        score = client.score(shape, english[20_000:22_000])
    token_ids, logprobs = score.token_ids, score.logprobs
    cls = AutoModelForCausalLM if shape == "uniform" else SecateurForCausalLM
    reference = cls.from_pretrained(folders[shape], dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor([token_ids])
    expected = reference(ids).logits.float().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    if dtype == "float32":
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=TOLERANCE[dtype], rtol=0)
    # Single bf16 log-probabilities differ by their rounding (8 bits); their mean must not.
    torch.testing.assert_close(torch.tensor(logprobs).mean(), expected.mean(), atol=TOLERANCE[dtype], rtol=0)
