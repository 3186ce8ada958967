"""`secateur generate`: what the exit status says of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from secateur.cli.commands import run
from secateur.v1 import inference_pb2, inference_pb2_grpc


class Breaking(inference_pb2_grpc.InferenceServiceServicer):
    """Ends completions as it is told to, one reason each."""

    def __init__(self) -> None:
        self.reasons: list[inference_pb2.FinishReason.ValueType] = []

    def StreamGenerate(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for index, reason in enumerate(self.reasons):
            yield inference_pb2.StreamGenerateResponse(
                index=index, text_delta="Once", token_ids=[1], model="m", finish_reason=reason
            )


@pytest.fixture
def breaking() -> Iterator[tuple[Breaking, str]]:
    """What it does, and its address."""
    made, server = Breaking(), grpc.server(ThreadPoolExecutor(1))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_an_answer_cut_off_is_a_failure(
    breaking: tuple[Breaking, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What there is of it is printed all the same."""
    server, address = breaking
    command = ["generate", "hello", "--target", address]
    complaint = "error: the server ended the answer before it was whole (finish reason abort)"
    server.reasons = [inference_pb2.FINISH_REASON_ABORT]
    assert run(command) == 1
    out, err = capsys.readouterr()
    assert out == "Once\n" and err.splitlines()[-1] == complaint
    server.reasons = [inference_pb2.FINISH_REASON_STOP, inference_pb2.FINISH_REASON_ABORT]
    assert run([*command, "--n", "2", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [one["finish_reason"] for one in json.loads(out)["completions"]] == ["stop", "abort"]
    assert err.splitlines() == [complaint]


def test_an_answer_that_is_whole_is_none(
    breaking: tuple[Breaking, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, address = breaking
    server.reasons = [inference_pb2.FINISH_REASON_STOP, inference_pb2.FINISH_REASON_LENGTH]
    assert run(["generate", "hello", "--target", address, "--n", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == "--- 1\nOnce\n\n--- 2\nOnce\n" and "error" not in err
