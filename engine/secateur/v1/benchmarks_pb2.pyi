import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BenchmarkState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BENCHMARK_STATE_UNSPECIFIED: _ClassVar[BenchmarkState]
    BENCHMARK_STATE_RUNNING: _ClassVar[BenchmarkState]
    BENCHMARK_STATE_SUCCEEDED: _ClassVar[BenchmarkState]
    BENCHMARK_STATE_FAILED: _ClassVar[BenchmarkState]
    BENCHMARK_STATE_CANCELLED: _ClassVar[BenchmarkState]
BENCHMARK_STATE_UNSPECIFIED: BenchmarkState
BENCHMARK_STATE_RUNNING: BenchmarkState
BENCHMARK_STATE_SUCCEEDED: BenchmarkState
BENCHMARK_STATE_FAILED: BenchmarkState
BENCHMARK_STATE_CANCELLED: BenchmarkState

class RunBenchmarkRequest(_message.Message):
    __slots__ = ("model", "compare", "closed", "open", "seconds", "rounds", "input_tokens", "output_tokens", "slo")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SLO_FIELD_NUMBER: _ClassVar[int]
    model: str
    compare: _containers.RepeatedScalarFieldContainer[str]
    closed: ClosedLoad
    open: OpenLoad
    seconds: float
    rounds: int
    input_tokens: int
    output_tokens: int
    slo: str
    def __init__(self, model: _Optional[str] = ..., compare: _Optional[_Iterable[str]] = ..., closed: _Optional[_Union[ClosedLoad, _Mapping]] = ..., open: _Optional[_Union[OpenLoad, _Mapping]] = ..., seconds: _Optional[float] = ..., rounds: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., slo: _Optional[str] = ...) -> None: ...

class ClosedLoad(_message.Message):
    __slots__ = ("concurrencies",)
    CONCURRENCIES_FIELD_NUMBER: _ClassVar[int]
    concurrencies: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, concurrencies: _Optional[_Iterable[int]] = ...) -> None: ...

class OpenLoad(_message.Message):
    __slots__ = ("rates", "constant")
    RATES_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    rates: _containers.RepeatedScalarFieldContainer[float]
    constant: bool
    def __init__(self, rates: _Optional[_Iterable[float]] = ..., constant: _Optional[bool] = ...) -> None: ...

class RunBenchmarkResponse(_message.Message):
    __slots__ = ("name", "stage", "fraction", "benchmark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    BENCHMARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    stage: str
    fraction: float
    benchmark: Benchmark
    def __init__(self, name: _Optional[str] = ..., stage: _Optional[str] = ..., fraction: _Optional[float] = ..., benchmark: _Optional[_Union[Benchmark, _Mapping]] = ...) -> None: ...

class GetBenchmarkRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetBenchmarkResponse(_message.Message):
    __slots__ = ("benchmark",)
    BENCHMARK_FIELD_NUMBER: _ClassVar[int]
    benchmark: Benchmark
    def __init__(self, benchmark: _Optional[_Union[Benchmark, _Mapping]] = ...) -> None: ...

class ListBenchmarksRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "model")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    model: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ListBenchmarksResponse(_message.Message):
    __slots__ = ("benchmarks", "next_page_token")
    BENCHMARKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    benchmarks: _containers.RepeatedCompositeFieldContainer[Benchmark]
    next_page_token: str
    def __init__(self, benchmarks: _Optional[_Iterable[_Union[Benchmark, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Benchmark(_message.Message):
    __slots__ = ("name", "state", "models", "create_time", "end_time", "error", "result")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: BenchmarkState
    models: _containers.RepeatedCompositeFieldContainer[BenchmarkedModel]
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    error: str
    result: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[BenchmarkState, str]] = ..., models: _Optional[_Iterable[_Union[BenchmarkedModel, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ..., result: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class BenchmarkedModel(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
