"""From what a client asks of a benchmark to checked `BenchOptions`, in the words of the request's fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from secateur.config.bench import BenchOptions
from secateur.config.proto_fields import faults_in, field_of, given_in
from secateur.config.values import from_given
from secateur.errors import BadInput
from secateur.serve.failures import FieldViolation, invalid_argument, violation
from secateur.v1 import benchmarks_pb2


def options_of(
    request: benchmarks_pb2.RunBenchmarkRequest, models: Sequence[str], target: str
) -> BenchOptions:
    """The options of a benchmark of this server.

    Args:
        request: as the client sent it.
        models: the names of those to measure.
        target: where the load generator reaches the server.

    Raises:
        RpcError: INVALID_ARGUMENT naming every field at fault.
    """
    if violations := [*_load_violations(request), *map(_violation, faults_in(request, BenchOptions))]:
        raise invalid_argument(*violations)
    given = given_in(request, BenchOptions)
    given |= {"target": target, "model": models[0], "compare": tuple(models[1:])}
    if request.open.constant:
        given["arrivals"] = "constant"
    try:
        return from_given(BenchOptions, given)
    except BadInput as error:
        raise invalid_argument(_violation(error)) from error


def _violation(error: BadInput) -> FieldViolation:
    return violation(error.with_names(lambda name: field_of(BenchOptions, name)))


def _load_violations(request: benchmarks_pb2.RunBenchmarkRequest) -> Iterator[FieldViolation]:
    load = request.WhichOneof("load")
    if load is None:
        yield FieldViolation("load", "give one of closed, open")
    elif not request.closed.concurrencies and not request.open.rates:
        yield FieldViolation(load, "got no load, at least one")
