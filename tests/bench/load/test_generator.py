"""The load is what was asked for, times are right, and nothing measured is lost whatever the server does."""

from __future__ import annotations

import asyncio
from statistics import median

import grpc
import pytest

from secateur.bench.load.generator import CANCELLED
from secateur.bench.load.record import Phase
from secateur.bench.load.stage import ClosedLoop, OpenLoop, StopCondition, TraceReplay
from secateur.bench.metrics.row import result_row, windows
from tests.bench.conftest import drive, measured
from tests.bench.null_server import Behaviour, null_server


async def test_known_times_are_measured() -> None:
    async with null_server(null=Behaviour(ttft=0.06, itl=0.02)) as address:
        log = await drive(address, ClosedLoop(2), StopCondition(requests=12), tokens=6)
    good = measured(log)
    assert len(good) == 12 and all(record.ok for record in good)
    assert median(record.ttft_ms for record in good) == pytest.approx(60, abs=15)
    assert median(record.tpot_ms or 0 for record in good) == pytest.approx(20, abs=4)
    assert median(record.e2e_ms for record in good) == pytest.approx(60 + 5 * 20, abs=25)
    assert all(record.output_tokens == 6 and record.prompt_tokens == 3 for record in good)
    assert median(record.engine.prefill_ms for record in good if record.engine) == pytest.approx(60)


async def test_a_closed_loop_keeps_its_clients_busy_and_no_more() -> None:
    async with null_server(null=Behaviour(ttft=0.03, itl=0.005)) as address:
        log = await drive(address, ClosedLoop(4), StopCondition(requests=16))
    assert len(measured(log)) == 16
    assert sum(record.phase is Phase.WARMUP for record in log.records) == 8  # two waves
    ((begin, end, inside),) = windows(log.records)
    for share in (0.1, 0.5, 0.9):  # from the first measured request to the end of the last
        at = begin + share * (end - begin)
        assert 3 <= sum(record.sent <= at <= record.ended for record in inside) <= 4


async def test_measured_for_some_seconds() -> None:
    async with null_server(null=Behaviour(ttft=0.01)) as address:
        log = await drive(address, ClosedLoop(2), StopCondition(seconds=0.5), tokens=2)
    ((begin, end, _),) = windows(log.records)
    assert 0.5 <= end - begin < 1.0


async def test_a_stalled_server_shows_in_the_latencies_of_an_open_loop() -> None:
    """No coordinated omission: requests that should have been sent during the stall have waited for it."""
    behaviour = Behaviour(ttft=0.01)

    async def stall() -> None:
        await asyncio.sleep(1.6)  # a second of warm-up comes first
        behaviour.stalled.set()
        await asyncio.sleep(0.8)
        behaviour.stalled.clear()

    async with null_server(null=behaviour) as address:
        load = OpenLoop(50, poisson=False)
        log = await drive(address, load, StopCondition(seconds=2), tokens=1, meanwhile=stall)
    good = measured(log)
    late = [record.ttft_ms for record in good if record.ttft_ms > 100]
    # 0.8 s of 2 s: of the 100 requests that came, those of the first 0.7 s of the stall waited over 100 ms,
    # evenly between that and all of it.
    assert len(good) == pytest.approx(100, abs=3)
    assert len(late) == pytest.approx(35, abs=5)
    assert max(late) == pytest.approx(800, abs=80)
    assert median(late) == pytest.approx(450, abs=80)


async def test_a_full_client_counts_the_wait_from_the_intended_time() -> None:
    """With a limit on requests in flight, the wait for a place is told apart, and part of the latency."""
    async with null_server(null=Behaviour(ttft=0.1)) as address:
        load = OpenLoop(40, poisson=False, limit=2)  # bears 20 per second
        log = await drive(address, load, StopCondition(seconds=1), tokens=1)
    good = measured(log)
    assert all(record.ttft_ms - record.queue_ms == pytest.approx(100, abs=40) for record in good)
    assert good[-1].queue_ms > good[0].queue_ms + 500  # twice as many come as it bears
    assert (
        result_row({"kind": "open", "rate": 40}, "", "null", log.records, None)["max_concurrent_requests"]
        == 2
    )


async def test_overload_is_said() -> None:
    async with null_server(null=Behaviour(ttft=0.1, slots=2)) as address:
        load = OpenLoop(40, poisson=False)
        log = await drive(address, load, StopCondition(seconds=1.5), tokens=1)
    described = result_row(load.to_json(), "", "null", log.records, None)
    assert described["request_throughput"] == pytest.approx(20, rel=0.15)
    assert any(note.startswith("overloaded: 40.00 requests/s came, ") for note in described["notes"])


async def test_a_dying_server_is_given_up_and_nothing_is_lost() -> None:
    behaviour = Behaviour(ttft=0.01, itl=0.005)

    async def die() -> None:
        await asyncio.sleep(1.0)
        behaviour.die_after = 2

    async with null_server(null=behaviour) as address:
        log = await drive(address, ClosedLoop(2), StopCondition(seconds=60), meanwhile=die)
    good = [record for record in measured(log) if record.ok]
    failed = [record for record in measured(log) if record.error == "UNAVAILABLE"]
    assert len(good) > 20 and len(failed) > 10
    assert all(len(record.times) == 2 for record in failed)  # what came before is kept
    assert {record.message for record in failed} == {"died on purpose"}  # by a server that is there
    assert [note.kind for note in log.notes] == ["GAVE_UP"]
    described = result_row(
        {"kind": "closed", "concurrency": 2}, "", "null", log.records, None, notes=log.notes
    )
    assert described["failures"] == {"UNAVAILABLE": len(failed)}
    assert described["completed"] == len(good) and described["median_ttft_ms"] > 0
    assert any("requests failed" in note for note in described["notes"])


async def test_refusals_are_counted_beside_what_is_answered() -> None:
    behaviour = Behaviour(ttft=0.002)

    async def refuse() -> None:
        for _ in range(10):
            await asyncio.sleep(0.1)
            behaviour.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED if behaviour.refuse is None else None

    async with null_server(null=behaviour) as address:
        log = await drive(address, ClosedLoop(4), StopCondition(seconds=1), meanwhile=refuse)
    described = result_row({"kind": "closed", "concurrency": 4}, "", "null", log.records, None)
    assert described["completed"] > 20 and described["failures"]["RESOURCE_EXHAUSTED"] > 3
    assert not log.notes


async def test_a_server_that_slows_down_is_noticed() -> None:
    behaviour = Behaviour(ttft=0.01)

    async def slow() -> None:
        await asyncio.sleep(0.7)
        behaviour.ttft = 0.04

    async with null_server(null=behaviour) as address:
        log = await drive(address, ClosedLoop(2), StopCondition(seconds=1.5), tokens=1, meanwhile=slow)
    described = result_row({"kind": "closed", "concurrency": 2}, "", "null", log.records, None)
    assert any(note.startswith("slowed down") for note in described["notes"])


async def test_a_deadline_is_a_failure_of_the_server() -> None:
    async with null_server(null=Behaviour(ttft=5)) as address:
        log = await drive(address, ClosedLoop(1), StopCondition(requests=2), timeout=0.2)
    assert {record.error for record in measured(log)} == {"DEADLINE_EXCEEDED"}


async def test_stopped_early_what_there_is_is_kept() -> None:
    stop = asyncio.Event()

    async def interrupt() -> None:
        await asyncio.sleep(0.5)
        stop.set()

    async with null_server(null=Behaviour(ttft=0.02, itl=0.01)) as address:
        log = await drive(
            address, ClosedLoop(2), StopCondition(seconds=60), tokens=6, stop=stop, meanwhile=interrupt
        )
    assert len([record for record in measured(log) if record.ok]) >= 4
    unfinished = [record for record in measured(log) if record.error == CANCELLED]
    assert 1 <= len(unfinished) <= 2
    assert [note.kind for note in log.notes] == ["INTERRUPTED"]
    described = result_row({"kind": "closed", "concurrency": 2}, "", "null", log.records, None)
    assert described["failed"] == 0 and described["unfinished"] == len(unfinished)


async def test_a_trace_is_sent_at_its_own_times() -> None:
    times = (0.0, 0.1, 0.1, 0.4)
    async with null_server(null=Behaviour(ttft=0.01)) as address:
        log = await drive(address, TraceReplay(times), StopCondition(requests=4))
    sent = sorted(record.sent for record in measured(log))
    assert [at - sent[0] for at in sent] == pytest.approx(times, abs=0.03)
