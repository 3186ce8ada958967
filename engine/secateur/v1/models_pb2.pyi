import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_SERVING: _ClassVar[ModelState]
    MODEL_STATE_DRAINING: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
    MODEL_STATE_UNLOADED: _ClassVar[ModelState]
    MODEL_STATE_RESTARTING: _ClassVar[ModelState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_SERVING: ModelState
MODEL_STATE_DRAINING: ModelState
MODEL_STATE_FAILED: ModelState
MODEL_STATE_UNLOADED: ModelState
MODEL_STATE_RESTARTING: ModelState

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class GetModelVersionRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetModelVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class LoadModelVersionRequest(_message.Message):
    __slots__ = ("name", "folder", "version", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    folder: str
    version: str
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., folder: _Optional[str] = ..., version: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class LoadModelVersionResponse(_message.Message):
    __slots__ = ("version", "plan")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    plan: MemoryPlan
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., plan: _Optional[_Union[MemoryPlan, _Mapping]] = ...) -> None: ...

class ActivateModelVersionRequest(_message.Message):
    __slots__ = ("name", "version", "etag", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    etag: str
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., etag: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class ActivateModelVersionResponse(_message.Message):
    __slots__ = ("model", "plan")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    model: Model
    plan: MemoryPlan
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., plan: _Optional[_Union[MemoryPlan, _Mapping]] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class RollbackModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class UnloadModelVersionRequest(_message.Message):
    __slots__ = ("name", "version", "etag", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    etag: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., etag: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class UnloadModelVersionResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class DeleteModelVersionRequest(_message.Message):
    __slots__ = ("name", "version", "etag", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    etag: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., etag: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class DeleteModelVersionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("alias", "model")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    alias: str
    model: str
    def __init__(self, alias: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: str
    def __init__(self, alias: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "state", "architecture", "dtype", "max_model_len", "kv_cache_tokens", "load_seconds", "counters", "active_version", "previous_version", "aliases", "versions", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: ModelState
    architecture: str
    dtype: str
    max_model_len: int
    kv_cache_tokens: int
    load_seconds: float
    counters: EngineCounters
    active_version: str
    previous_version: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    etag: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., architecture: _Optional[str] = ..., dtype: _Optional[str] = ..., max_model_len: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., load_seconds: _Optional[float] = ..., counters: _Optional[_Union[EngineCounters, _Mapping]] = ..., active_version: _Optional[str] = ..., previous_version: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., etag: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model", "version", "state", "reason", "active", "unload_time", "create_time", "checkpoint", "architecture", "dtype", "max_model_len", "kv_cache_tokens", "load_seconds", "counters", "check")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    UNLOAD_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    state: ModelState
    reason: str
    active: bool
    unload_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    checkpoint: Checkpoint
    architecture: str
    dtype: str
    max_model_len: int
    kv_cache_tokens: int
    load_seconds: float
    counters: EngineCounters
    check: EngineCheck
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., reason: _Optional[str] = ..., active: _Optional[bool] = ..., unload_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., architecture: _Optional[str] = ..., dtype: _Optional[str] = ..., max_model_len: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., load_seconds: _Optional[float] = ..., counters: _Optional[_Union[EngineCounters, _Mapping]] = ..., check: _Optional[_Union[EngineCheck, _Mapping]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("folder", "fingerprint", "model_type", "weight_bytes", "shape", "dense_parameters", "kept_parameters", "limits", "perplexities", "lineage")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DENSE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    KEPT_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITIES_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    folder: str
    fingerprint: str
    model_type: str
    weight_bytes: int
    shape: Shape
    dense_parameters: ParameterCount
    kept_parameters: ParameterCount
    limits: _containers.RepeatedCompositeFieldContainer[BudgetLimit]
    perplexities: _containers.RepeatedCompositeFieldContainer[Perplexity]
    lineage: Lineage
    def __init__(self, folder: _Optional[str] = ..., fingerprint: _Optional[str] = ..., model_type: _Optional[str] = ..., weight_bytes: _Optional[int] = ..., shape: _Optional[_Union[Shape, _Mapping]] = ..., dense_parameters: _Optional[_Union[ParameterCount, _Mapping]] = ..., kept_parameters: _Optional[_Union[ParameterCount, _Mapping]] = ..., limits: _Optional[_Iterable[_Union[BudgetLimit, _Mapping]]] = ..., perplexities: _Optional[_Iterable[_Union[Perplexity, _Mapping]]] = ..., lineage: _Optional[_Union[Lineage, _Mapping]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("kv_groups", "channels", "removed_attentions", "removed_ffns")
    KV_GROUPS_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ATTENTIONS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FFNS_FIELD_NUMBER: _ClassVar[int]
    kv_groups: _containers.RepeatedScalarFieldContainer[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    removed_attentions: int
    removed_ffns: int
    def __init__(self, kv_groups: _Optional[_Iterable[int]] = ..., channels: _Optional[_Iterable[int]] = ..., removed_attentions: _Optional[int] = ..., removed_ffns: _Optional[int] = ...) -> None: ...

class ParameterCount(_message.Message):
    __slots__ = ("total", "non_embedding")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NON_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    total: int
    non_embedding: int
    def __init__(self, total: _Optional[int] = ..., non_embedding: _Optional[int] = ...) -> None: ...

class BudgetLimit(_message.Message):
    __slots__ = ("kind", "keep", "limit", "unit")
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    keep: float
    limit: float
    unit: str
    def __init__(self, kind: _Optional[str] = ..., keep: _Optional[float] = ..., limit: _Optional[float] = ..., unit: _Optional[str] = ...) -> None: ...

class Perplexity(_message.Message):
    __slots__ = ("corpus", "dense", "slim")
    CORPUS_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    SLIM_FIELD_NUMBER: _ClassVar[int]
    corpus: str
    dense: float
    slim: float
    def __init__(self, corpus: _Optional[str] = ..., dense: _Optional[float] = ..., slim: _Optional[float] = ...) -> None: ...

class Lineage(_message.Message):
    __slots__ = ("base_model", "base_fingerprint", "kl", "pairs", "seed", "corpora", "secateur")
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CORPORA_FIELD_NUMBER: _ClassVar[int]
    SECATEUR_FIELD_NUMBER: _ClassVar[int]
    base_model: str
    base_fingerprint: str
    kl: float
    pairs: int
    seed: int
    corpora: _containers.RepeatedScalarFieldContainer[str]
    secateur: str
    def __init__(self, base_model: _Optional[str] = ..., base_fingerprint: _Optional[str] = ..., kl: _Optional[float] = ..., pairs: _Optional[int] = ..., seed: _Optional[int] = ..., corpora: _Optional[_Iterable[str]] = ..., secateur: _Optional[str] = ...) -> None: ...

class MemoryPlan(_message.Message):
    __slots__ = ("weight_bytes", "kv_cache_bytes", "overhead_bytes", "needed_bytes", "available_bytes", "fits", "unloads")
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEEDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    UNLOADS_FIELD_NUMBER: _ClassVar[int]
    weight_bytes: int
    kv_cache_bytes: int
    overhead_bytes: int
    needed_bytes: int
    available_bytes: int
    fits: bool
    unloads: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, weight_bytes: _Optional[int] = ..., kv_cache_bytes: _Optional[int] = ..., overhead_bytes: _Optional[int] = ..., needed_bytes: _Optional[int] = ..., available_bytes: _Optional[int] = ..., fits: _Optional[bool] = ..., unloads: _Optional[_Iterable[str]] = ...) -> None: ...

class EngineCheck(_message.Message):
    __slots__ = ("golden_tokens", "greatest_difference", "tensors_verified", "tensors_repacked", "seconds")
    GOLDEN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GREATEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    TENSORS_REPACKED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    golden_tokens: int
    greatest_difference: float
    tensors_verified: int
    tensors_repacked: int
    seconds: float
    def __init__(self, golden_tokens: _Optional[int] = ..., greatest_difference: _Optional[float] = ..., tensors_verified: _Optional[int] = ..., tensors_repacked: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class EngineCounters(_message.Message):
    __slots__ = ("running_requests", "waiting_requests", "kv_cache_usage", "prompt_tokens", "generated_tokens", "finished_requests", "aborted_requests")
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ABORTED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    running_requests: int
    waiting_requests: int
    kv_cache_usage: float
    prompt_tokens: int
    generated_tokens: int
    finished_requests: int
    aborted_requests: int
    def __init__(self, running_requests: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., kv_cache_usage: _Optional[float] = ..., prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., finished_requests: _Optional[int] = ..., aborted_requests: _Optional[int] = ...) -> None: ...
