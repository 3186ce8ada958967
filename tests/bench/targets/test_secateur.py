"""What is known of a model: what its server says, and from its folder what the server does not."""

from __future__ import annotations

from pathlib import Path

from secateur.bench.models import ModelInfo, checkpoint_info
from secateur.bench.targets.secateur import SecateurTarget
from secateur.v1 import models_pb2
from tests.bench.conftest import endpoint
from tests.bench.null_server import Behaviour, null_server


async def described(checkpoint: models_pb2.Checkpoint) -> ModelInfo:
    async with null_server(m=Behaviour(checkpoint=checkpoint)) as address:
        target = SecateurTarget(endpoint(address))
        try:
            return await target.describe("m")
        finally:
            await target.close()


async def test_a_model_that_secateur_made() -> None:
    checkpoint = models_pb2.Checkpoint(weight_bytes=400)
    checkpoint.kept_parameters.total, checkpoint.dense_parameters.total = 100, 150
    checkpoint.perplexities.add(corpus="a", dense=9.0, slim=10.5)
    checkpoint.perplexities.add(corpus="not measured")
    found = await described(checkpoint)
    assert (found.version, found.dtype, found.parameters, found.weight_bytes) == ("1", "float32", 100, 400)
    assert found.perplexity == {"a": 10.5} and found.kv_bytes_per_token is None


async def test_of_a_dense_model_the_folder_says_the_rest(tiny_llama: Path) -> None:
    found = await described(models_pb2.Checkpoint(weight_bytes=400))
    assert (found.parameters, found.kv_bytes_per_token, found.weight_bytes) == (None, None, 400)
    folder = checkpoint_info("m", tiny_llama, found.dtype)
    whole = found.completed_by(folder)
    assert (whole.parameters, whole.weight_bytes) == (folder.parameters, 400)
    assert whole.kv_bytes_per_token == 3 * 2 * 2 * 32 * 4  # layers, key and value, heads, size, float32
