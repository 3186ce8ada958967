"""One caller attacks a whole server, another is served meanwhile: text, templates, silence, quotas."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from secateur.client import CallFailed, Client, RetryPolicy
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token
from secateur.serve.process import ServerProcess, served, stop
from secateur.v1 import inference_pb2, inference_pb2_grpc

pytestmark = pytest.mark.slow

SMALL = ("--dtype", "float32", "--kv-cache-memory", "32MiB", "--max-sequences", "8", "--text-seconds", "1")
SILENCE = ("--first-message-seconds", "3", "--max-calls", "64", "--max-calls-per-caller", "48")
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DASHBOARD = Path(__file__).parents[2] / "examples/grafana.json"
CHAT = [{"role": "user", "content": "hi"}]
TOKENS = {name: generate_token() for name in ("polite", "attacker", "metered")}
QUOTA = "requests_per_minute = 6\ntokens_per_minute = 100\npriority = 0\n"
# What a caller may wait for a first token while another attacks: a step of half a second, twice, and the time
# that this machine takes for other things. The figures are in docs/reliability.md.
PATIENCE = 5.0


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("attacks") / "tokens.toml"
    entries = (format_caller_entry(name, [Scope.INFER], token) for name, token in TOKENS.items())
    file.write_text("".join(entries) + QUOTA)  # of the last
    return file


@pytest.fixture(scope="module")
def looping(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose chat template does not end."""
    folder = tmp_path_factory.mktemp("looping") / "model"
    shutil.copytree(folders["llama"], folder)
    (folder / "chat_template.jinja").write_text(LOOP)
    return folder


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], looping: Path, tokens: Path) -> Iterator[ServerProcess]:
    pytest.importorskip("vllm")
    log = tokens.with_name("log")
    options = (
        "--metrics",
        "127.0.0.1:0",
        "--tokens",
        str(tokens),
        "--state-dir",
        str(tokens.with_name("state")),
    )
    with log.open("w") as stderr:
        try:
            models = {"slim": folders["llama"], "loops": looping}
            with served(models, *SMALL, *SILENCE, *options, stderr=stderr) as running:
                yield running
        finally:
            print(log.read_text())


@pytest.fixture
def polite(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60, token=TOKENS["polite"]) as client:
        yield client


@pytest.fixture
def attacker(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, timeout=60, token=TOKENS["attacker"]) as client:
        yield client


def first_token_seconds(client: Client) -> float:
    """Of a short text on "slim"."""
    started = time.monotonic()
    next(iter(client.generate("slim", "a bright cold day", max_tokens=1, ignore_eos=True)))
    return time.monotonic() - started


def test_texts_of_one_do_not_hold_up_another(server: ServerProcess, attacker: Client, polite: Client) -> None:
    """As much text as is allowed, many times at once, compressed, by one who does not wait for the answer."""
    text = "hello world " * 21_000
    with grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {TOKENS['attacker']}"),)
        request = inference_pb2.TokenizeRequest(model="slim", text=text)
        calls = [stub.Tokenize.future(request, metadata=metadata, timeout=120) for _ in range(64)]
        waits = [first_token_seconds(polite) for _ in range(4)]
        assert any(not call.done() for call in calls), "the attack was over before"
        for call in calls[8:]:
            call.cancel()
        assert len(calls[0].result().token_ids) > 21_000
    print("first tokens while another tokenises:", waits)
    assert max(waits) < PATIENCE


def test_texts_that_are_too_long_are_refused_unread(server: ServerProcess, attacker: Client) -> None:
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT: text: got 300000 characters, allowed are 262144"):
        attacker.tokenize("slim", "hello " * 50_000)
    with pytest.raises(CallFailed, match="token_ids: got 300000, allowed are 262144"):
        attacker.detokenize("slim", [1] * 300_000)
    with pytest.raises(CallFailed, match="token_ids: got 300000 tokens, the model has room for"):
        attacker.complete("slim", [1] * 300_000)
    with pytest.raises(CallFailed, match=r"chat\.messages: got 5000, at most 4096"):
        attacker.tokenize("slim", CHAT * 5000)
    # A few kilobytes on the wire: what counts is what they become.
    with grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.TokenizeRequest(model="slim", text="hello world " * 1_700_000)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Tokenize(request, metadata=(("authorization", f"Bearer {TOKENS['attacker']}"),), timeout=60)
        assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_template_that_does_not_end_is_refused(attacker: Client, polite: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        chats = [pool.submit(attacker.complete, "loops", CHAT, max_tokens=1) for _ in range(8)]
        waits = [first_token_seconds(polite) for _ in range(4)]
        for chat in chats:
            with pytest.raises(
                CallFailed, match="the model's chat template takes more than 1 s of processor"
            ):
                chat.result()
    print("first tokens while another's template loops:", waits)
    assert max(waits) < PATIENCE
    # Its own text is still answered.
    assert attacker.complete("loops", "hi", max_tokens=1).usage.completion_tokens == 1


def test_a_server_ends_while_templates_loop(folders: dict[str, Path], looping: Path, tmp_path: Path) -> None:
    with (
        served({"loops": looping}, *SMALL, "--state-dir", str(tmp_path)) as running,
        Client(running.address, timeout=60) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        for _ in range(4):
            pool.submit(client.complete, "loops", CHAT, max_tokens=1)
        time.sleep(0.5)
        assert stop(running.process) == 0


def test_calls_that_say_nothing_lose_their_places(server: ServerProcess, polite: Client) -> None:
    metadata = (("authorization", f"Bearer {TOKENS['attacker']}"),)
    with grpc.insecure_channel(server.address) as channel:
        # As bytes in a stream: a client of ours would send its request.
        method = channel.stream_stream("/secateur.v1.InferenceService/Generate")
        never = threading.Event()
        silent = [method(iter(never.wait, True), metadata=metadata, timeout=60) for _ in range(200)]
        waits = [first_token_seconds(polite) for _ in range(4)]
        codes = Counter(call.code() for call in silent)
        never.set()
    print("first tokens beside 200 silent calls:", waits)
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED: 48, grpc.StatusCode.RESOURCE_EXHAUSTED: 152}
    assert max(waits) < PATIENCE


def test_quotas(server: ServerProcess, tokens: Path, polite: Client) -> None:
    once = RetryPolicy(attempts=1)
    with Client(server.address, timeout=60, token=TOKENS["metered"], retries=once) as metered:
        with pytest.raises(CallFailed, match="PERMISSION_DENIED: priority: got 1, the highest"):
            metered.complete("slim", "hi", priority=1)
        metered.complete("slim", [5] * 60, max_tokens=60, ignore_eos=True)
        with pytest.raises(CallFailed) as refusal:
            metered.complete("slim", "hi")
        assert (refusal.value.code, refusal.value.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOKEN_QUOTA",
        )
        assert 5 < (refusal.value.retry_seconds or 0) <= 13  # 20 tokens and one at 100 a minute
        # SIGHUP reads new quotas; the requests made so far count.
        tokens.write_text(tokens.read_text().replace("tokens_per_minute = 100\n", ""))
        server.process.send_signal(signal.SIGHUP)
        reasons = []
        for _ in range(6):
            try:
                metered.tokenize("slim", "hi")
            except CallFailed as refused:
                reasons.append(refused.reason)
        assert reasons and set(reasons) <= {"TOKEN_QUOTA", "REQUEST_QUOTA"} and reasons[-1] == "REQUEST_QUOTA"
        assert polite.complete("slim", "hi", max_tokens=1).usage.completion_tokens == 1


def test_the_dashboard_shows_what_there_is(server: ServerProcess, tokens: Path, polite: Client) -> None:
    """Every metric that examples/grafana.json names is exported, and every one of ours is shown."""
    polite.complete("slim", "hi", max_tokens=2)
    address = re.search(r"metrics on (http://\S+)", tokens.with_name("log").read_text())
    assert address is not None
    with urllib.request.urlopen(address[1], timeout=5) as answer:
        samples = dict(re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", answer.read().decode(), re.MULTILINE))
    shown = set(re.findall(r"\b(?:secateur|process)_\w+", DASHBOARD.read_text()))
    assert shown <= set(samples)
    ours = {name for name in samples if name.startswith("secateur_") and not name.endswith("_created")}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in ours} == {
        name.removesuffix("_bucket") for name in shown if name.startswith("secateur_")
    }
    assert float(samples["secateur_kv_cache_tokens"]) > 0
    assert float(samples["secateur_engine_resident_memory_bytes"]) > 2**20
