"""An OpenAI-compatible server over a real socket: times, token counts, and every way to fail."""

from __future__ import annotations

from statistics import median

import pytest

from secateur.bench.load.prompt import BenchmarkPrompt, BenchmarkRequest
from secateur.bench.load.record import StreamedResponse
from secateur.bench.load.request_source import make_requests
from secateur.bench.load.target import RequestFailed
from secateur.bench.targets.openai import OpenAITarget
from secateur.bench.targets.registry import endpoint_of, open_target
from secateur.client.endpoint import Endpoint
from secateur.config.bench import BenchOptions
from secateur.errors import BadInput
from tests.bench.null_http import HttpBehaviour, null_http

REQUEST = BenchmarkRequest(BenchmarkPrompt(3, token_ids=(1, 2, 3)), 6)
OPTIONS = BenchOptions(input_len=40, output_len=4)


def connect(address: str, timeout: float = 30.0) -> OpenAITarget:
    target = open_target(address, Endpoint("localhost:0", timeout=timeout))
    assert isinstance(target, OpenAITarget)
    return target


async def test_known_times_are_measured() -> None:
    async with null_http(HttpBehaviour(ttft=0.05, itl=0.02)) as address:
        target = connect(address)
        answers = [StreamedResponse() for _ in range(5)]
        sent = []
        for answer in answers:
            import time

            sent.append(time.perf_counter())
            await target.stream("null", REQUEST, answer)
        await target.close()
    assert [a.output_tokens for a in answers] == [6] * 5 and [a.prompt_tokens for a in answers] == [3] * 5
    assert all(len(answer.times) == 6 for answer in answers)
    first = median(a.times[0] - at for a, at in zip(answers, sent, strict=True))
    gap = median((a.times[-1] - a.times[0]) / 5 for a in answers)
    assert first == pytest.approx(0.05, abs=0.015) and gap == pytest.approx(0.02, abs=0.004)


@pytest.mark.parametrize("tokenizes", [True, False])
async def test_prompts_have_the_length_asked_for(tokenizes: bool) -> None:
    async with null_http(HttpBehaviour(tokenizes=tokenizes)) as address:
        target = connect(address)
        make = await make_requests(target, "null", OPTIONS)
        answer = StreamedResponse()
        await target.stream("null", make(1), answer)
        await target.close()
    assert answer.prompt_tokens == (40 if tokenizes else pytest.approx(40, abs=6))
    assert (make(1).prompt.token_ids is not None) is tokenizes


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (HttpBehaviour(refuse=503), "HTTP_503"),
        (HttpBehaviour(refuse=429), "HTTP_429"),
        (HttpBehaviour(cut_after=3), "CUT_OFF"),
        (HttpBehaviour(ttft=5), "DEADLINE_EXCEEDED"),
    ],
)
async def test_failures_have_their_codes(behaviour: HttpBehaviour, code: str) -> None:
    async with null_http(behaviour) as address:
        target = connect(address, timeout=0.5)
        answer = StreamedResponse()
        with pytest.raises(RequestFailed) as caught:
            await target.stream("null", REQUEST, answer)
        await target.close()
    assert caught.value.code == code
    assert len(answer.times) == (behaviour.cut_after or 0)  # what came before is kept


async def test_models() -> None:
    async with null_http(HttpBehaviour()) as address:
        target = connect(address)
        assert (await target.describe("")).name == "null"
        with pytest.raises(RequestFailed, match="no model 'other'; there are: null"):
            await target.describe("other")
        await target.close()
    gone = connect(address)
    with pytest.raises(RequestFailed) as caught:
        await gone.describe("null")
    assert caught.value.code == "UNAVAILABLE"
    await gone.close()


def test_a_token_does_not_travel_unencrypted() -> None:
    access = Endpoint("localhost:0", token="secret")
    assert endpoint_of("http://127.0.0.1:80/v1", access).token == "secret"
    assert endpoint_of("https://example.com:443", access).encrypted
    with pytest.raises(BadInput, match="unencrypted"):
        endpoint_of("http://example.com:80", access)
