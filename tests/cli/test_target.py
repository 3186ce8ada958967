"""The options that commands which talk to a server share: what cannot work is said in the user's words."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from secateur.cli.commands import run
from secateur.v1 import models_pb2, models_pb2_grpc


class Catalogue(models_pb2_grpc.ModelServiceServicer):
    """Remembers the credentials that came with each call."""

    def __init__(self) -> None:
        self.seen: list[str | bytes | None] = []

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> models_pb2.ListModelsResponse:
        self.seen.append(dict(context.invocation_metadata()).get("authorization"))
        return models_pb2.ListModelsResponse()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--tls-cert", "a.pem"], "--tls-cert: got a.pem: a certificate and its key go together"),
        (["--tls-ca", "/no/such.pem"], "--tls-ca: got /no/such.pem: cannot be read: No such file"),
        (["--token-file", "/no/such"], "--token-file: got /no/such: cannot be read: No such file"),
        (
            ["--target", "example.org:1", "--token", "x"],
            "--token: got one for example.org:1: would travel unencrypted to another machine: "
            "give --tls-ca, --tls or --insecure",
        ),
        (["--tls-ca", __file__], f"--tls-ca: got {__file__}: holds no certificate in PEM form"),
        (["--token-file", os.devnull], f"--token-file: got {os.devnull}: one token in it"),
        (["--token-file", __file__], f"--token-file: got {__file__}: one token in it"),
        (
            ["--token", "x", "--token-file", __file__],
            f"--token-file: got {__file__}: --token gives a token already: give one of them",
        ),
        (["--token", ""], "--token: got one with other characters: printable ASCII"),
    ],
)
def test_options_that_cannot_work(
    capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert run(["generate", "hello", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"error: {complaint}" in err


def test_tokens_come_from_an_option_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = Catalogue()
    server = grpc.server(ThreadPoolExecutor(1))
    models_pb2_grpc.add_ModelServiceServicer_to_server(catalogue, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    def ask(*options: str) -> int:
        return run(["models", "list", "--target", target, "--json", *options])

    file = tmp_path / "token"
    file.write_text("from-file\n")
    try:
        assert ask() == 0
        assert ask("--token", "from-option") == 0
        assert ask("--token-file", str(file)) == 0
        monkeypatch.setenv("SECATEUR_TOKEN", "from-variable")
        assert ask() == 0
        assert ask("--token-file", str(file)) == 0
    finally:
        server.stop(0).wait()
    sources = ("option", "file", "variable", "file")
    assert catalogue.seen == [None, *(f"Bearer from-{source}" for source in sources)]
