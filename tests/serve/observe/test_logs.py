"""Log lines: for people and for programs, with the id of the call."""

from __future__ import annotations

import io
import json
import logging

from secateur.serve.observe.logs import log_call, logging_to
from tests.serve.guard.conftest import Running, failure

log = logging.getLogger("secateur.serve.test")


async def test_for_programs(running: Running) -> None:
    stream = io.StringIO()
    logs = logging_to(stream, as_json=True, with_calls=True)
    async with running(observers=[log_call]) as calls:
        with logs:
            await calls.say(metadata=(("x-request-id", "a-1"),))
            await failure(calls.say("refuse", metadata=(("x-request-id", "a-2"),)))
            await failure(calls.say("bug", metadata=(("x-request-id", "a-3"),)))
            log.info("between calls")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    method = "/secateur.v1.InferenceService/Say"
    fine, refused, traceback, bug, between = lines
    assert (fine["request_id"], fine["method"], fine["caller"]) == ("a-1", method, "anyone")
    assert (fine["code"], fine["level"]) == ("OK", "info") and fine["milliseconds"] > 0
    assert (refused["request_id"], refused["code"], refused["level"]) == ("a-2", "INVALID_ARGUMENT", "info")
    assert "value: got refuse" in refused["message"] and "exc_info" not in refused
    assert (traceback["request_id"], traceback["level"]) == ("a-3", "error")
    assert "KeyError: 'secret'" in traceback["exc_info"]
    assert (bug["code"], bug["level"]) == ("INTERNAL", "info")
    assert between["message"] == "between calls" and "request_id" not in between
    assert between["time"].endswith("Z")


async def test_for_people(running: Running) -> None:
    stream = io.StringIO()
    logs = logging_to(stream, as_json=False, with_calls=False)
    async with running(observers=[log_call]) as calls:
        with logs:
            await calls.say()
            await failure(calls.say("refuse"))
            assert stream.getvalue() == ""
            await failure(calls.say("bug", metadata=(("x-request-id", "a-3"),)))
            log.info("listening")
        log.info("nobody hears this")
    first, *rest = stream.getvalue().splitlines()
    assert first == "error: /secateur.v1.InferenceService/Say failed: a bug [a-3]"
    assert rest[0] == "Traceback (most recent call last):" and rest[-1] == "listening"
