"""The examples run. grpc-js and buf are tried where node and buf are; npm then installs its two packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secateur.serve.process import ServerProcess, served

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def server(make_tiny: Callable[..., Path]) -> Iterator[ServerProcess]:
    """A server with one model, so that it needs no name."""
    pytest.importorskip("vllm")
    options = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8")
    with served({"tiny": make_tiny("llama")}, *options) as running:
        yield running


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(server: ServerProcess) -> None:
    assert len(run(sys.executable, str(EXAMPLES / "generate.py"), "one two", server.address)) > 10
    many = run(sys.executable, str(EXAMPLES / "many.py"), "3", server.address)
    assert "3 answers, 96 tokens" in many and "by version 1 of tiny" in many
    scores = run(sys.executable, str(EXAMPLES / "score.py"), "one two", "three four", server.address)
    assert scores.count("perplexity") == 2


def test_python_says_why_it_failed() -> None:
    command = (sys.executable, str(EXAMPLES / "generate.py"), "one two", "127.0.0.1:1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "UNAVAILABLE: no server answers there" in done.stderr


def test_grpc_js(server: ServerProcess, tmp_path: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no node")
    shutil.copytree(EXAMPLES.parent / "proto", tmp_path / "proto")
    folder = tmp_path / "examples" / "grpc-js"
    shutil.copytree(EXAMPLES / "grpc-js", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
    if subprocess.run(install, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("npm cannot install @grpc/grpc-js here")
    assert len(run("node", str(folder / "generate.js"), "one two", server.address)) > 10


def test_buf_curl(server: ServerProcess) -> None:
    if not shutil.which("buf"):
        pytest.skip("no buf")
    answer = run(str(EXAMPLES / "buf-curl.sh"), "one two", server.address)
    assert '"finishReason"' in answer and '"model": "tiny"' in answer
