"""One server for the whole session, with tiny random models of every kind that can be served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secateur.checkpoint.configuration_secateur import slim_config
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from secateur.client import Client
from secateur.serve.process import ServerProcess, served

# Heads and channels differ between layers, layer 0 has no attention, the last layer no FFN.
GROUPS, CHANNELS = (0, 2, 1), (192, 64, 0)
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if messages[-1].role == 'nobody' %}{{ raise_exception('nobody may not speak') }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SMALL = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8")


@pytest.fixture(scope="session")
def make_slim(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Cut a dense folder to `GROUPS` and `CHANNELS`; only the slim model gets a chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def make(folder: Path) -> Path:
        dense = AutoModelForCausalLM.from_pretrained(folder)
        slim = SecateurForCausalLM(slim_config(dense.config, GROUPS, CHANNELS))
        source = dense.state_dict()
        slim.load_state_dict(
            {name: source[name][tuple(map(slice, t.shape))] for name, t in slim.state_dict().items()}
        )
        target = tmp_path_factory.mktemp(f"slim-{dense.config.model_type}")
        slim.save_pretrained(target)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(target)
        return target

    return make


@pytest.fixture(scope="session")
def folders(make_tiny: Callable[..., Path], make_slim: Callable[[Path], Path]) -> dict[str, Path]:
    """Name -> checkpoint: a stock Llama, and a per-layer model of each family."""
    return {
        "stock": make_tiny("llama"),
        "llama": make_slim(make_tiny("llama")),
        "mistral": make_slim(make_tiny("mistral", sliding_window=8)),
        # Full attention with two KV groups, then sliding attention with one: caches of two kinds and sizes.
        "qwen2": make_slim(
            make_tiny("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2)
        ),
        "qwen3": make_slim(make_tiny("qwen3")),
    }


@pytest.fixture(scope="session")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running `secateur serve` with all `folders`, in float32."""
    pytest.importorskip("vllm")
    log = tmp_path_factory.mktemp("server") / "stderr.txt"
    with log.open("w") as stderr:
        try:
            with served(folders, *SMALL, "--channelz", stderr=stderr) as running:
                yield running
        finally:
            print(log.read_text())


@pytest.fixture(scope="session")
def slim_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `slim_server` writes to stderr."""
    return tmp_path_factory.mktemp("slim-server") / "stderr.txt"


@pytest.fixture(scope="session")
def slim_server(folders: dict[str, Path], slim_log: Path) -> Iterator[ServerProcess]:
    """A running `secateur serve` with one slim model, named "slim"."""
    pytest.importorskip("vllm")
    with slim_log.open("w") as stderr:
        try:
            with served(
                {"slim": folders["llama"]}, *SMALL, "--state-dir", str(slim_log.parent), stderr=stderr
            ) as running:
                yield running
        finally:
            print(slim_log.read_text())


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60) as connected:
        yield connected
