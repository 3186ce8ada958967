"""What a checkpoint says of itself, read here and aside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secateur.checkpoint.source import open_source
from secateur.serve.failures import RpcError
from secateur.serve.models.checkpoint import fingerprint, read_checkpoint, read_checkpoint_in_subprocess
from secateur.serve.models.description import describe_checkpoint

RECORD = {
    "model": {"reference": "base", "fingerprint": "f00"},
    "parameters": {"total": 10, "non_embedding": 8},
    "kept": {"total": 6, "non_embedding": 4},
    "budget": {"limits": {"params": {"keep": 0.5, "limit": 4, "unit": "parameters"}}},
    "architecture": {"groups": [2, 0], "channels": [0, 64]},
    "dense": {"perplexity": {"text": 10.0, "more": 11.0}},
    "slim": {"perplexity": {"text": 12.0}},
    "search": {"kl": 0.2, "pairs": 7},
    "seed": 3,
    "corpora": ["text"],
    "versions": {"secateur": "0.1.0"},
}


async def test_reading_aside_is_reading(tiny_llama: Path, tmp_path: Path) -> None:
    found = await read_checkpoint_in_subprocess(tiny_llama)
    assert found == read_checkpoint(tiny_llama)
    assert found.fingerprint == fingerprint(tiny_llama) == open_source(tiny_llama).fingerprint
    assert found.model_type == "llama" and found.memory_bytes("float32") == 2 * found.memory_bytes("auto") > 0
    with pytest.raises(RpcError, match=f"folder: got {tmp_path}: ") as refusal:
        await read_checkpoint_in_subprocess(tmp_path)
    assert refusal.value.reason == "CHECKPOINT_REFUSED"


def test_a_slim_checkpoint_tells_its_story(tiny_llama: Path, editable: Callable[[Path], Path]) -> None:
    folder = editable(tiny_llama)
    (folder / "secateur.json").write_text(json.dumps(RECORD))
    told = describe_checkpoint(read_checkpoint(folder))
    assert (told.shape.kv_groups, told.shape.removed_attentions, told.shape.removed_ffns) == ([2, 0], 1, 1)
    assert (told.dense_parameters.total, told.kept_parameters.non_embedding) == (10, 4)
    assert [(limit.kind, limit.keep) for limit in told.limits] == [("params", 0.5)]
    assert [(one.corpus, one.HasField("slim")) for one in told.perplexities] == [
        ("text", True),
        ("more", False),
    ]
    assert (told.lineage.base_model, told.lineage.pairs, told.lineage.seed) == ("base", 7, 3)


@pytest.mark.parametrize(
    "record",
    ["[]", "no json", '{"architecture": 3, "budget": [], "kept": {"x": 1}, "model": "m", "slim": null}'],
)
def test_a_story_that_makes_no_sense_is_left_out(
    tiny_llama: Path, editable: Callable[[Path], Path], record: str
) -> None:
    folder = editable(tiny_llama)
    (folder / "secateur.json").write_text(record)
    told = describe_checkpoint(read_checkpoint(folder))
    assert told.fingerprint and not told.HasField("shape") and not told.HasField("lineage")


@pytest.mark.parametrize(
    "claims",
    [
        {"num_hidden_layers": 10**9},
        {"max_window_layers": 10**9},
        {"model_type": "gemma3", "text_config": {"num_hidden_layers": 10**9}},
        {"model_type": "gpt2", "n_layer": 10**9},
    ],
)
async def test_a_thousand_million_layers(
    tiny_llama: Path, editable: Callable[[Path], Path], claims: dict[str, Any]
) -> None:
    """Lists of that length would be made, also by those who read what we do not know."""
    folder = editable(tiny_llama)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | claims))
    with pytest.raises(RpcError, match=r"its config says \w+ = 1000000000"):
        await read_checkpoint_in_subprocess(folder)


def test_reading_a_configuration_has_an_end(tiny_llama: Path) -> None:
    """The process that reads it is ended by the kernel, whatever it is at."""
    script = "from pathlib import Path; from secateur.serve.models import checkpoint as it; import sys\n"
    script += "it.OPEN_SECONDS = 0.01; it._main(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(tiny_llama)], timeout=60)
    assert done.returncode == -signal.SIGPROF
