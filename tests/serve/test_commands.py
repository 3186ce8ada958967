"""`secateur serve` and `secateur generate` given what cannot work: one line, exit status 2, at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secateur.cli.commands import run
from secateur.serve.process import ServerProcess


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["slim"], "error: NAME=DIR: got slim: give each model as NAME=DIR"),
        (["slim="], "error: NAME=DIR: got slim=: give each model as NAME=DIR"),
        (["a b=."], "a name is letters, digits"),
        (["slim=/no/such/folder"], "error: NAME=DIR: got slim=/no/such/folder: no such folder"),
        (["a=.", "a=."], "the name a was given before"),
        (["a=.", "--dtype", "int3"], "error: --dtype: got int3: one of auto, bfloat16"),
        (["a=.", "--kv-cache-memory", "lots"], "error: --kv-cache-memory: got lots: a size such as"),
        (["a=.", "--kv-cache-memory", "1KiB"], "error: --kv-cache-memory: got 1024: at least"),
        (["a=.", "--max-model-len", "1"], "error: --max-model-len: got 1: at least 2"),
        (["a=.", "--threads", "0"], "error: --threads: got 0: at least 1"),
    ],
)
def test_serve_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    assert complaint in error_of(capsys, "serve", *arguments)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "50051"], "error: --listen: got 50051: HOST:PORT"),
        (["--listen", "127.0.0.1:65536"], "HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "without encryption: add --tls-cert and --tls-key, or --insecure"),
        (["--metrics", "0.0.0.0:0"], "error: --metrics: got 0.0.0.0:0: reachable from other machines"),
        (["--open", "everything"], "error: --open: got everything: a list of health, reflection"),
        (["--roots", "/no/such"], "error: --roots: got /no/such: no such folder"),
        (["--tokens", "/no/such"], "error: --tokens: got /no/such: no such file"),
        (["--keepalive", "0"], "error: --keepalive: got 0: seconds, at least 1"),
        (["--listen", "192.0.2.1:0", "--insecure"], "cannot be bound"),
        (["--drain-seconds", "-1"], "error: --drain-seconds: got -1: 0 to 86400"),
    ],
)
def test_serve_refuses_with_a_good_model(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, options: list[str], complaint: str
) -> None:
    assert complaint in error_of(capsys, "serve", f"a={tiny_llama}", *options)


def test_files_that_are_not_what_they_should_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama: Path
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk = 1")
    serve = ("serve", f"a={tiny_llama}", "--listen", "127.0.0.1:0", "--state-dir", str(tmp_path))
    assert f"error: --tokens: got {junk}: junk: no such key" in error_of(
        capsys, *serve, "--tokens", str(junk)
    )
    tls = ("--tls-cert", str(junk), "--tls-key", str(junk))
    assert f"error: --tls-cert: got {junk}: not a PEM certificate" in error_of(capsys, *serve, *tls)


def test_port_in_use(capsys: pytest.CaptureFixture[str], tiny_llama: Path, taken_port: int) -> None:
    error = error_of(capsys, "serve", f"a={tiny_llama}", "--listen", f"127.0.0.1:{taken_port}")
    assert f"error: --listen: got 127.0.0.1:{taken_port}: cannot be bound: in use" in error


def test_broken_checkpoint(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, editable: Callable[[Path], Path]
) -> None:
    folder = editable(tiny_llama)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in error_of(capsys, "serve", f"a={folder}")
    weights.unlink()
    assert str(folder) in error_of(capsys, "serve", f"a={folder}")


def test_generate_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "generate", "--target", "127.0.0.1:1", "hello")
    assert error.startswith("error: 127.0.0.1:1: UNAVAILABLE: no server answers there")


def test_generate_prints_text(capsys: pytest.CaptureFixture[str], server: ServerProcess) -> None:
    arguments = ["generate", "--target", server.address, "--model", "llama", "--max-tokens", "12"]
    sampling = ["--temperature", "0", "--ignore-eos"]
    assert run([*arguments, *sampling, "hello", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "llama"
    (completion,) = document["completions"]
    assert document["usage"]["completion_tokens"] == len(completion["token_ids"]) == 12
    assert completion["finish_reason"] == "length"
    assert document["ttft_ms"] > 0 and document["tokens_per_second"] > 0
    assert run([*arguments, *sampling, "hello"]) == 0
    out, err = capsys.readouterr()
    assert out == completion["text"] + "\n"
    assert "[llama: 12 tokens, length, first after" in err
    stop = completion["text"][2:4]
    assert run([*arguments, *sampling, "hello", "--stop", stop]) == 0
    assert capsys.readouterr().out == completion["text"].partition(stop)[0] + "\n"


def test_generate_several_answers(capsys: pytest.CaptureFixture[str], server: ServerProcess) -> None:
    arguments = ["generate", "--target", server.address, "--model", "llama", "--max-tokens", "5", "--n", "3"]
    assert run([*arguments, "--seed", "1", "--logprobs", "2", "hello", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["completions"]) == 3 and document["usage"]["completion_tokens"] <= 15
    assert all(len(one["logprobs"]) == len(one["token_ids"]) for one in document["completions"])
    assert document["model_version"] == "1" and document["engine_ms"]["prefill"] > 0
    assert run([*arguments, "--seed", "1", "hello"]) == 0
    out = capsys.readouterr().out
    assert all(f"--- {one['index'] + 1}\n{one['text']}" in out for one in document["completions"])


def test_generate_chat_and_bad_requests(capsys: pytest.CaptureFixture[str], server: ServerProcess) -> None:
    arguments = ["generate", "--target", server.address, "--max-tokens", "3"]
    assert run([*arguments, "--model", "llama", "--system", "Be brief.", "hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["usage"]["prompt_tokens"] > 30
    assert "no chat template" in error_of(capsys, *arguments, "--model", "stock", "--chat", "hello")
    assert "sampling.temperature" in error_of(
        capsys, *arguments, "--model", "llama", "--temperature", "3", "hello"
    )
    assert "NOT_FOUND" in error_of(capsys, *arguments, "--model", "nobody", "hello")
