"""Spans of calls and of engine requests, under the client's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from secateur.serve.observe import traces
from tests.serve.guard.conftest import Running, failure

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Totals:
    prompt_tokens: int
    generated_tokens: int
    completed: bool


class Kept(SpanExporter):
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans):  # type: ignore[no-untyped-def]
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@pytest.fixture
def kept() -> Iterator[tuple[Kept, list]]:
    exporter, stop = Kept(), []
    stop.append(traces.start_tracing(exporter))
    yield exporter, stop
    stop[0]()


async def test_spans(running: Running, kept: tuple[Kept, list]) -> None:
    exporter, stop = kept
    async with running(observers=[traces.trace_call]) as calls:
        original = calls.handlers._answer

        async def answer(word, context):  # type: ignore[no-untyped-def]
            with traces.trace_request("slim", "2", Totals(7, 3, True)):
                return await original(word, context)

        calls.handlers._answer = answer  # type: ignore[method-assign]
        await calls.say(metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "a-1")))
        await failure(calls.say("refuse"))
    stop[0]()
    inner, outer, _, refused = exporter.spans
    assert f"{outer.context.trace_id:032x}" == TRACE
    assert outer.parent is not None and f"{outer.parent.span_id:016x}" == PARENT
    assert outer.name == "secateur.v1.InferenceService/Say"
    assert outer.attributes["secateur.request_id"] == "a-1"
    assert outer.attributes["rpc.grpc.status"] == "OK" and outer.status.is_ok
    assert inner.parent is not None and inner.parent.span_id == outer.context.span_id
    assert inner.attributes == {
        "gen_ai.request.model": "slim",
        "secateur.model_version": "2",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "secateur.completed": True,
    }
    assert refused.attributes["rpc.grpc.status"] == "INVALID_ARGUMENT" and not refused.status.is_ok
    assert f"{refused.context.trace_id:032x}" != TRACE and not refused.events


async def test_without_traces_nothing_happens(running: Running) -> None:
    async with running(observers=[traces.trace_call]) as calls:
        assert (await calls.say()).value == "hello"
    with traces.trace_request("slim", "2", Totals(0, 0, False)):
        pass
