"""`secateur bench` as a command: files, tables, comparison, Ctrl-C, and what is refused in one line."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secateur.bench.load.journal import read_journal
from secateur.cli.commands import run
from tests.bench.null_server import Behaviour, null_server
from tests.cli.test_bad_input import failure

SHORT = ("--input-len", "8", "--output-len", "4")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A null server on a thread of its own."""
    known = {"dense": Behaviour(ttft=0.06, itl=0.004), "slim": Behaviour(ttft=0.01, itl=0.002)}
    known["same"] = Behaviour(ttft=0.06, itl=0.004)
    known["narrow"] = Behaviour(ttft=0.04, slots=2)  # bears 50 requests per second
    ready, found = threading.Event(), []
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with null_server(**known) as where:
            found.append(where)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


def bench(*arguments: str, expected: int = 0) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "secateur.cli.app", "bench", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == expected, done.stderr
    return json.loads(done.stdout), done.stderr


def test_compared_and_reported(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found, said = bench(
        *("--target", address, "--model", "dense", "--compare", "slim", "--compare", "same"),
        *("--concurrency", "1,2", "--seconds", "2", "--rounds", "4", "--slo", "ttft=40ms", "--out", str(out)),
        *SHORT,
    )
    assert [(row["label"], row["model"]) for row in found["results"]] == [
        (f"concurrency {count}", model) for count in (1, 2) for model in ("dense", "slim", "same")
    ]
    slim = next(one for one in found["comparison"] if one["second"] == "slim")["ratios"]
    same = next(one for one in found["comparison"] if one["second"] == "same")["ratios"]
    assert slim["median_e2el_ms"]["differ"] and slim["median_e2el_ms"]["ratio"] < 0.8
    assert slim["output_throughput"]["differ"] and slim["output_throughput"]["ratio"] > 1.2
    assert same["median_e2el_ms"]["ratio"] == pytest.approx(1, abs=0.15)
    assert found["environment"]["versions"]["grpcio"] and found["options"]["seed"] == 0
    good = {row["model"]: row["request_goodput"] / row["request_throughput"] for row in found["results"][:3]}
    assert good["slim"] > 0.9 and good["dense"] < 0.1
    assert "tokens/s" in said
    page = (out / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")
    raw = json.loads((out / "report.json").read_text())["results"][0]
    assert len(raw["ttfts"]) == len(raw["itls"]) == raw["completed"] and raw["curves"]["ttft"]
    assert len(read_journal(out / "records.jsonl").records) > raw["completed"]


def test_as_many_requests_as_asked_for(address: str, tmp_path: Path) -> None:
    found, _ = bench(
        *("--target", address, "--model", "slim", "--compare", "same", "--requests", "8"),
        *("--out", str(tmp_path / "out"), *SHORT),
    )
    assert [(row["completed"], row["rounds"]) for row in found["results"]] == [(8, 6), (8, 6)]


def test_reported_again_from_its_records(address: str, tmp_path: Path) -> None:
    first, _ = bench(
        *(
            "--target",
            address,
            "--model",
            "slim",
            "--rate",
            "20",
            "--arrivals",
            "constant",
            "--requests",
            "10",
        ),
        *("--out", str(tmp_path / "out"), *SHORT),
    )
    again, _ = bench("--from", str(tmp_path / "out" / "records.jsonl"))
    assert again == first and first["results"][0]["completed"] == 10


def test_a_trace(address: str, tmp_path: Path) -> None:
    lines = [{"timestamp": 100 * n, "input_length": 5 + n, "output_length": 1 + n} for n in range(6)]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(map(json.dumps, lines)))
    bench("--target", address, "--model", "slim", "--trace", str(trace), "--out", str(tmp_path / "out"))
    raw = json.loads((tmp_path / "out" / "report.json").read_text())["results"][0]
    assert raw["input_lens"] == [5, 6, 7, 8, 9, 10] and raw["output_lens"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_sweep_finds_saturation(address: str, tmp_path: Path) -> None:
    found, _ = bench(
        *(
            "--target",
            address,
            "--model",
            "narrow",
            "--sweep",
            "--seconds",
            "0.6",
            "--out",
            str(tmp_path / "out"),
        ),
        *("--input-len", "8", "--output-len", "1"),
    )
    closed = [row for row in found["results"] if row["load"]["kind"] == "closed"]
    rates = [row["load"]["rate"] for row in found["results"] if row["load"]["kind"] == "open"]
    assert [row["load"]["concurrency"] for row in closed][:3] == [1, 2, 4] and len(closed) <= 5
    assert closed[1]["request_throughput"] > 1.2 * closed[0]["request_throughput"]
    most = max(row["request_throughput"] for row in closed)
    assert rates == pytest.approx([most * share for share in (0.5, 0.7, 0.8, 0.9, 1.0, 1.1)], rel=0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_prints_what_there_is(address: str, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "secateur.cli.app", "bench", "--target", address, "--model", "dense"]
    process = subprocess.Popen(
        [*command, "--concurrency", "2,4", "--seconds", "600", "--out", str(out), "--json", *SHORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    records = out / "records.jsonl"
    deadline = time.monotonic() + 60
    while not (records.exists() and records.read_text().count('"measured"') > 20):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    printed, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    found = json.loads(printed)
    assert found["benchmark"]["interrupted"] and found["results"][0]["completed"] > 10
    assert len(found["results"]) == 1 and "Traceback" not in said
    assert json.loads((out / "report.json").read_text())["results"]


@pytest.mark.parametrize("lines", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_whoever_reads_may_leave(address: str, tmp_path: Path, lines: int) -> None:
    """After so many lines: while it measures, or while it prints what it found."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "secateur.cli.app", "bench", "--target", address, "--model", "slim"]
    process = subprocess.Popen(
        [*command, "--concurrency", "1,2", "--requests", "20", "--out", str(out), *SHORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert len(json.loads((out / "report.json").read_text())["results"]) == 2
    assert (out / "report.html").exists()


def test_killed_its_records_are_there(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "secateur.cli.app", "bench", "--target", address, "--model", "dense"]
    process = subprocess.Popen(
        [*command, "--seconds", "600", "--out", str(out), *SHORT], stderr=subprocess.DEVNULL
    )
    records = out / "records.jsonl"
    deadline = time.monotonic() + 60
    while not (records.exists() and records.read_text().count('"measured"') > 10):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    found, _ = bench("--from", str(records))
    assert found["results"][0]["completed"] >= 10


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--concurrency", "0"), "--concurrency: got 0: above 0"),
        (("--concurrency", "1.5"), "--concurrency: got 1.5: allowed are whole numbers"),
        (("--concurrency", "many"), "--concurrency: got many: allowed are whole numbers"),
        (("--rate", "-1"), "--rate: got -1"),
        (("--rate", "nan"), "--rate: got nan"),
        (("--ramp", "3"), "--ramp: got 3: FROM:TO"),
        (("--rate", "1", "--concurrency", "1"), "--rate: got 1: not together with --concurrency"),
        (("--sweep", "--rate", "1"), "--sweep: got True: not together with --rate"),
        (("--arrivals", "bursty", "--rate", "1"), "--arrivals: got bursty: poisson or constant"),
        (("--max-concurrency", "0", "--rate", "1"), "--max-concurrency: got 0"),
        (("--seconds", "0"), "--seconds: got 0"),
        (("--seconds", "1", "--requests", "1"), "--seconds: got 1"),
        (("--requests", "0"), "--requests: got 0"),
        (("--rounds", "0"), "--rounds: got 0"),
        (("--input-len", "0"), "--input-len: got 0"),
        (("--output-len", "-3"), "--output-len: got -3"),
        (("--slo", "ttft=fast"), "--slo: got ttft=fast"),
        (("--trace", "nowhere.jsonl"), "--trace: got nowhere.jsonl"),
        (("--corpus", "nowhere.txt"), "--corpus: got nowhere.txt"),
        (("--target", "somewhere"), "--target: got somewhere: HOST:PORT"),
        (("--target", "ftp://x:1"), "--target: got ftp://x:1"),
        (("--compare", ""), "--compare: got : is compared with itself"),
        (("--compare", "b@nowhere"), "--compare: got nowhere"),
        (("--checkpoint", "default"), "--checkpoint: got default: MODEL=DIR"),
        (("--checkpoint", "default=nowhere"), "--checkpoint: got default=nowhere: no such folder"),
        (("--checkpoint", "other=."), "--checkpoint: got other=.: MODEL=DIR, MODEL being one of default"),
        (("--target", "10.1.1.1:1", "--token", "x"), "would travel unencrypted"),
        (("--from", "nowhere"), "--from: got nowhere"),
        (("--out", "/proc/x"), "--out: got /proc/x: /proc is not a writable folder"),
        (("--offline", "nowhere"), "--offline: got nowhere: no such folder"),
        (("--offline", ".", "--batch", "0"), "--batch: got 0: 1 to 1024"),
        (("--offline", "."), "no checkpoint folder"),
    ],
)
def test_what_is_refused(
    capsys: pytest.CaptureFixture[str],
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    target = () if "--target" in options else ("--target", address)
    assert named in failure(capsys, "bench", *target, *options)
    assert not list(tmp_path.iterdir())


def test_no_server_and_no_model(capsys: pytest.CaptureFixture[str], address: str, tmp_path: Path) -> None:
    for target in ("127.0.0.1:9", "http://127.0.0.1:9"):
        said = failure(capsys, "bench", "--target", target)
        assert f"{target}: UNAVAILABLE: no server answers there (" in said
    assert "no model 'x'" in failure(capsys, "bench", "--target", address, "--model", "x")
    (tmp_path / "there").mkdir()
    assert "--out" in failure(capsys, "bench", "--target", address, "--out", tmp_path / "there")


def test_the_server_is_that_of_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_TARGET", "127.0.0.1:9")
    assert "error: 127.0.0.1:9: UNAVAILABLE" in failure(capsys, "bench")
    assert "127.0.0.1:8: UNAVAILABLE" in failure(capsys, "bench", "--target", "127.0.0.1:8")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--help"]) == 0
    assert "Example: secateur bench" in capsys.readouterr().out
