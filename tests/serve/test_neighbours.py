"""Two callers of one server: what one does costs the other its fair share at most, and tells it nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

from secateur.client import CallFailed, Client, RetryPolicy
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token
from secateur.serve.process import ServerProcess, served
from tests.serve.jobs.running import small_job
from tests.waiting import eventually

pytestmark = pytest.mark.slow

OPTIONS = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8", "--max-queued", "64")
JOB = {"model": "slim"}
TOKENS = {name: generate_token() for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running server that knows Alice and Bob."""
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("neighbours")
    entries = (format_caller_entry(name, [Scope.ADMIN], token) for name, token in TOKENS.items())
    (folder / "tokens.toml").write_text("".join(entries))
    log = folder / "log"
    with log.open("w") as stderr:
        (folder / "text.txt").write_text("It was a bright cold day in April. " * 400)
        more = (
            "--roots",
            str(folder),
            "--tokens",
            str(folder / "tokens.toml"),
            "--state-dir",
            str(folder / "state"),
        )
        try:
            with served({"slim": folders["llama"]}, *OPTIONS, *more, stderr=stderr) as running:
                yield running
        finally:
            print(log.read_text())


@pytest.fixture
def alice(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60, token=TOKENS["alice"]) as client:
        yield client


@pytest.fixture
def bob(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60, token=TOKENS["bob"]) as client:
        yield client


def test_request_ids_belong_to_their_caller(server: ServerProcess) -> None:
    def metadata(name: str) -> Any:
        return (("authorization", f"Bearer {TOKENS[name]}"),)

    def request(tokens: int) -> Any:
        params = pb.SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=tokens)
        tokenized = pb.TokenizedInput(input_ids=(40, 41, 42))
        return pb.GenerateRequest(request_id="1", tokenized=tokenized, sampling_params=params, stream=True)

    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        of_alice = stub.Generate(request(400), metadata=metadata("alice"), timeout=60)
        of_bob = stub.Generate(request(400), metadata=metadata("bob"), timeout=60)
        next(of_alice)
        next(of_bob)
        stub.Abort(pb.AbortRequest(request_ids=["1"]), metadata=metadata("bob"), timeout=60)
        *_, last = of_bob
        assert last.complete.finish_reason == "abort"
        stub.Abort(
            pb.AbortRequest(request_ids=["1"]), metadata=metadata("bob"), timeout=60
        )  # bob's has ended
        *_, last = of_alice
        assert last.complete.finish_reason == "length"


def test_request_ids_of_jobs_belong_to_their_caller(alice: Client, bob: Client) -> None:
    mine, theirs = (client.jobs.create(small_job(**JOB), request_id="1").name for client in (alice, bob))
    assert mine != theirs
    assert alice.jobs.create(small_job(**JOB), request_id="1").name == mine
    with pytest.raises(CallFailed, match="request_id: got the one of another job"):
        alice.jobs.create(small_job(**JOB, seed=1), request_id="1")


def test_the_prefix_cache_tells_nothing_of_others(alice: Client, bob: Client) -> None:
    prompt = [3 + 7 * number % 250 for number in range(300)]  # two whole blocks of the cache
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 4}
    answers = [client.complete("slim", prompt, **greedy) for client in (alice, alice, bob, bob)]
    cached = [answer.usage.cached_prompt_tokens for answer in answers]
    assert cached[0] == cached[2] == 0 and cached[1] == cached[3] > 0
    assert len({answer.token_ids for answer in answers}) == 1


def test_a_flood_of_one_leaves_room_for_another(alice: Client, bob: Client) -> None:
    """Bob wants more than there is room for, at the highest priority, and scores; Alice is served."""
    long: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True, "priority": 100}
    with ThreadPoolExecutor(40) as pool:
        streams = [pool.submit(bob.complete, "slim", [40 + number] * 100, **long) for number in range(32)]
        scores = [pool.submit(bob.score_all, "slim", [[5, 6, 7] * 160] * 8) for _ in range(4)]
        assert eventually(lambda: bob.models.get("slim").counters.running_requests >= 8)
        for _ in range(5):
            answer = alice.complete("slim", "Once", max_tokens=3, ignore_eos=True)
            assert answer.usage.completion_tokens == 3
            assert any(not stream.done() for stream in streams)
        assert {stream.result().usage.completion_tokens for stream in streams} == {400}
        first, *others = [score.result() for score in scores]
        assert all(other == first for other in others) and len(first[0].logprobs) == 479


def test_one_who_holds_too_much_is_refused_and_the_other_is_not(
    server: ServerProcess, alice: Client, bob: Client
) -> None:
    held: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True, "n": 16}  # as many as 8, the most at once
    once = RetryPolicy(attempts=1)
    with ThreadPoolExecutor(8) as pool:
        flood = [pool.submit(bob.complete, "slim", "x", **held) for _ in range(8)]
        assert eventually(lambda: bob.models.get("slim").counters.waiting_requests == 7)
        with Client(server.address, token=TOKENS["bob"], retries=once) as impatient:
            with pytest.raises(CallFailed) as refusal:
                impatient.complete("slim", "x")
            assert (refusal.value.reason, refusal.value.retry_seconds) == ("QUEUE_FULL", 1.0)
        assert alice.complete("slim", "x", max_tokens=3, ignore_eos=True).usage.completion_tokens == 3
        assert {one.result().usage.completion_tokens for one in flood} == {16 * 400}
