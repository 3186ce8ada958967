"""OpenTelemetry traces: a span per call, and one per request to an engine.

Off unless `start_tracing` is called; what runs meanwhile costs one look at a variable. The context comes from
the client's ``traceparent`` (W3C) in the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from secateur.errors import BackendUnavailable
from secateur.serve.guard.call import CallContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

SERVICE = "secateur"
_tracer: Tracer | None = None


def otlp_exporter(url: str) -> SpanExporter:
    """Return what sends spans to a collector over OTLP/gRPC; ``http://`` is unencrypted.

    Raises:
        BackendUnavailable: the packages of ``secateur[traces]`` are not there.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise BackendUnavailable(
            "`traces` needs OpenTelemetry: pip install '.[traces]' in a checkout of secateur"
        ) from error
    return OTLPSpanExporter(endpoint=url, insecure=not url.startswith("https://"))


def start_tracing(exporter: SpanExporter) -> Callable[[], None]:
    """Begin to make spans; return what sends the last ones and ends it. Ours alone: nothing global is set."""
    global _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer(SERVICE)

    def stop() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return stop


@contextmanager
def trace_call(call: CallContext) -> Iterator[None]:
    """Observe a call: a server span around it, the child of the client's if it sent one."""
    if _tracer is None:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key: value for key, value in call.metadata.items() if isinstance(value, str)}
    attributes = {
        "rpc.system": "grpc",
        "rpc.service": call.service,
        "rpc.method": call.name,
        "network.peer.address": call.peer,
        "secateur.request_id": call.request_id,
    }
    span = _tracer.start_span(
        call.method[1:],
        context=TraceContextTextMapPropagator().extract(carrier),
        kind=SpanKind.SERVER,
        attributes=attributes,
    )
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        finally:
            span.set_attribute("rpc.grpc.status", call.code)
            span.set_attribute("enduser.id", call.caller.name)
            if call.code != "OK":
                span.set_status(Status(StatusCode.ERROR, call.failure or call.code))


class TokenCounts(Protocol):
    """What a request has counted so far."""

    prompt_tokens: int
    generated_tokens: int
    completed: bool


@contextmanager
def trace_request(model: str, version: str, tokens: TokenCounts) -> Iterator[None]:
    """Put a span around one request to an engine.

    It is not made the current one: generators that are left in the middle could not restore the one before.
    """
    if _tracer is None:
        yield
        return
    span = _tracer.start_span(
        "engine.request", attributes={"gen_ai.request.model": model, "secateur.model_version": version}
    )
    try:
        yield
    finally:
        span.set_attributes(
            {
                "gen_ai.usage.input_tokens": tokens.prompt_tokens,
                "gen_ai.usage.output_tokens": tokens.generated_tokens,
                "secateur.completed": tokens.completed,
            }
        )
        span.end()
