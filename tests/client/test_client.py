"""Both clients: one surface, deadlines, cancellation, encryption and tokens."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from secateur.client import AsyncClient, CallFailed, Client, GenerationResult, StreamEvent
from secateur.client.inference import SamplingOptions
from secateur.client.models import AsyncModelsClient, ModelsClient
from secateur.errors import BadInput
from secateur.v1 import inference_pb2
from tests.client.conftest import WORDS, Certificate, Script
from tests.waiting import eventually

Start = Callable[..., tuple[Script, str]]


@pytest.mark.parametrize(("cls", "twin"), [(Client, AsyncClient), (ModelsClient, AsyncModelsClient)])
def test_both_have_the_same_surface(cls: type, twin: type) -> None:
    def surface(of: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(of, inspect.isfunction)
        return {
            name: list(inspect.signature(f).parameters) for name, f in methods if not name.startswith("_")
        }

    assert surface(cls) == surface(twin)
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__doc__ and getattr(twin, name).__doc__, name


def test_every_sampling_parameter_can_be_given() -> None:
    fields = inference_pb2.SamplingParameters.DESCRIPTOR.fields_by_name
    assert set(SamplingOptions.__annotations__) == set(fields)


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        ({"top_k": 2**40}, "top_k: got 1099511627776: a whole number of 32 bits"),
        ({"max_tokens": 1.5}, "max_tokens: got 1.5: a whole number of 32 bits"),
        ({"seed": 2**64}, "seed: got 18446744073709551616: a whole number of 64 bits"),
        ({"temperature": "hot"}, "temperature: got 'hot': a number"),
        ({"stop": [1]}, r"stop: got \[1\]: texts"),
        ({"stop_token_ids": [-1]}, r"stop_token_ids: got \[-1\]: whole numbers from 0 up"),
    ],
)
def test_what_cannot_be_sent(start: Start, sampling: dict[str, Any], complaint: str) -> None:
    script, target = start()
    with Client(target) as client, pytest.raises(BadInput, match=complaint):
        client.complete("m", "x", **sampling)
    assert not script.requests


def test_one_stop_text(start: Start) -> None:
    script, target = start()
    with Client(target) as client:
        client.complete("m", "x", stop="END")
    assert list(script.requests[0].sampling.stop) == ["END"]


def test_what_is_sent(start: Start) -> None:
    script, target = start()
    with Client(target) as client:
        client.complete("m", [1, 2], version="7", priority=5, n=2, stop=["."], temperature=None)
        with pytest.raises(TypeError, match="no such sampling parameter: heat"):
            client.complete("m", "x", heat=1)  # type: ignore[call-arg]
    request = script.requests[0]
    assert (request.model, request.model_version, request.priority) == ("m", "7", 5)
    assert list(request.token_ids.ids) == [1, 2]
    assert request.sampling == inference_pb2.SamplingParameters(n=2, stop=["."])


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ([{"role": "x"}], r"prompt\[0\]: got {'role': 'x'}: a message has a role and a content, both text"),
        ([{"role": "user", "content": "a"}, "b"], r"prompt\[1\]: got 'b': a message has"),
        ([{"role": "user", "content": None}], r"prompt\[0\]: got .*: a message has"),
        ([-1], r"prompt\[0\]: got -1: a token id is a number from 0 to 4294967295"),
        ([1, 2**32], r"prompt\[1\]: got 4294967296: a token id"),
        ([1.5], r"prompt\[0\]: got 1.5: a token id"),
        (["a"], r"prompt\[0\]: got 'a': a token id"),
        (None, "prompt: got None: text, token ids, or messages"),
    ],
)
def test_prompts_that_cannot_be_sent(prompt: Any, complaint: str) -> None:
    with Client("localhost:1") as client:
        for call in (client.complete, client.tokenize):
            with pytest.raises(BadInput, match=complaint):
                call("m", prompt)
        with pytest.raises(BadInput, match=complaint):
            list(client.generate("m", prompt))


def test_the_argument_at_fault_is_named() -> None:
    with Client("localhost:1") as client:
        with pytest.raises(BadInput, match=r"^text\[1\]: got -1"):
            client.score("m", [1, -1])
        with pytest.raises(BadInput, match=r"^texts\[1\]\[0\]: got -1"):
            client.score_all("m", ["a", [-1]])
        with pytest.raises(BadInput, match=r"^token_ids\[0\]: got -1"):
            client.detokenize("m", [-1])


def test_streams_and_whole_answers_are_read_alike(start: Start) -> None:
    _, target = start()
    with Client(target) as client:
        events = list(client.generate("m", "x"))
        whole = client.complete("m", "x")
    streamed = GenerationResult.of(events)
    assert [event.text for event in events] == list(WORDS)
    assert [event.finish_reason for event in events] == [None, None, "length"]
    assert streamed.text == whole.text == "".join(WORDS)
    assert (whole.model, whole.model_version, whole.finish_reason) == ("m", "3", "length")
    assert whole.ttft_ms is None and (streamed.ttft_ms or 0) > 0
    assert streamed.seconds >= events[-1].seconds > 0


def test_completions_of_a_stream_are_told_apart() -> None:
    def event(index: int, text: str, token: int, reason: int = 0) -> StreamEvent:
        response = inference_pb2.StreamGenerateResponse(
            index=index, text_delta=text, token_ids=[token], finish_reason=reason
        )
        return StreamEvent(text, (token,), 0.1 * token, response)

    answer = GenerationResult.of(
        [event(1, "a", 1), event(0, "b", 2), event(1, "c", 3, 1), event(0, "d", 4, 2)]
    )
    assert [(one.text, one.token_ids, one.finish_reason) for one in answer.completions] == [
        ("bd", (2, 4), "length"),
        ("ac", (1, 3), "stop"),
    ]


def test_lists_come_in_pages(start: Start) -> None:
    _, target = start()

    async def names() -> list[str]:
        async with AsyncClient(target) as client:
            return [model.name for model in await client.models.list()]

    with Client(target) as client:
        assert [model.name for model in client.models.list()] == ["a", "b", "c"]
    assert asyncio.run(names()) == ["a", "b", "c"]


def test_leaving_the_loop_cancels(start: Start) -> None:
    script, target = start()
    script.endless = True
    with Client(target) as client:
        for _ in zip(range(3), client.generate("m", "x"), strict=False):
            pass
        assert eventually(lambda: script.ended == 1)


def test_leaving_the_loop_cancels_asynchronously(start: Start) -> None:
    script, target = start()
    script.endless = True

    async def leave() -> None:
        async with AsyncClient(target) as client:
            async with aclosing(client.generate("m", "x")) as events:
                async for event in events:
                    if event.finish_reason:
                        break
            assert await asyncio.to_thread(eventually, lambda: script.ended == 1)

    asyncio.run(leave())


@pytest.mark.parametrize("timeouts", [{"timeout": 0.3}, {}])
def test_deadlines_of_the_client_and_of_a_call(start: Start, timeouts: dict[str, float]) -> None:
    script, target = start()
    script.endless = True
    with Client(target, **timeouts) as client, pytest.raises(CallFailed) as failure:
        list(client.generate("m", "x", timeout=None if timeouts else 0.3))
    assert failure.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert script.calls[0][2] < 0.31


def test_tokens_are_sent(start: Start) -> None:
    script, target = start()
    with Client(target, token="s3cret") as client:
        client.complete("m", "x")
        list(client.generate("m", "x"))
    assert [metadata["authorization"] for metadata, _, _ in script.calls] == ["Bearer s3cret"] * 2


def test_tls(start: Start, certify: Callable[[str], Certificate]) -> None:
    server, stranger = certify("server"), certify("stranger")
    _, target = start(grpc.ssl_server_credentials([server.pair]))

    async def ask() -> str:
        async with AsyncClient(target, ca=server.cert) as client:
            return (await client.complete("m", "x")).text

    with Client(target, ca=str(server.cert), token="s3cret") as client:
        assert client.complete("m", "x").text == "".join(WORDS)
    assert asyncio.run(ask()) == "".join(WORDS)
    with (
        Client(target, ca=stranger.cert, timeout=5) as client,
        pytest.raises(CallFailed, match="UNAVAILABLE"),
    ):
        client.complete("m", "x")


def test_mutual_tls(start: Start, certify: Callable[[str], Certificate]) -> None:
    server, friend, stranger = map(certify, ("server", "friend", "stranger"))
    _, target = start(
        grpc.ssl_server_credentials(
            [server.pair], root_certificates=friend.cert.read_bytes(), require_client_auth=True
        )
    )
    with Client(target, ca=server.cert, cert=friend.cert, key=friend.key) as client:
        assert client.complete("m", "x").text == "".join(WORDS)
    for options in ({}, {"cert": stranger.cert, "key": stranger.key}):
        with Client(target, ca=server.cert, timeout=5, **options) as client, pytest.raises(CallFailed):
            client.complete("m", "x")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cert": "a.pem"}, "cert: got a.pem: a certificate and its key go together: give both"),
        ({"key": "a.pem"}, "key: got a.pem: a certificate and its key"),
        ({"ca": __file__}, "ca: got .*: holds no certificate in PEM form"),
        ({"ca": "/no/such.pem"}, "ca: got /no/such.pem: cannot be read: No such file"),
        ({"timeout": 0}, "timeout: got 0: more than 0 seconds"),
        ({"token": "s3cret"}, "token: got one for example.org:1: would travel unencrypted"),
        ({"token": "a\nb", "tls": True}, "token: got one with other characters: printable ASCII"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        Client("example.org:1", **options)


def test_the_clients_import_neither_torch_nor_vllm() -> None:
    check = (
        "import sys, secateur.client; sys.exit(bool({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
