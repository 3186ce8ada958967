import datetime

from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PruneJobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRUNE_JOB_STATE_UNSPECIFIED: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_CREATED: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_QUEUED: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_RUNNING: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_RETRYING: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_ACTIVATING: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_CANCELLING: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_SUCCEEDED: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_FAILED: _ClassVar[PruneJobState]
    PRUNE_JOB_STATE_CANCELLED: _ClassVar[PruneJobState]

class PruneActivationOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRUNE_ACTIVATION_OUTCOME_UNSPECIFIED: _ClassVar[PruneActivationOutcome]
    PRUNE_ACTIVATION_OUTCOME_ACTIVATED: _ClassVar[PruneActivationOutcome]
    PRUNE_ACTIVATION_OUTCOME_CONDITION_NOT_MET: _ClassVar[PruneActivationOutcome]
    PRUNE_ACTIVATION_OUTCOME_FAILED: _ClassVar[PruneActivationOutcome]
PRUNE_JOB_STATE_UNSPECIFIED: PruneJobState
PRUNE_JOB_STATE_CREATED: PruneJobState
PRUNE_JOB_STATE_QUEUED: PruneJobState
PRUNE_JOB_STATE_RUNNING: PruneJobState
PRUNE_JOB_STATE_RETRYING: PruneJobState
PRUNE_JOB_STATE_ACTIVATING: PruneJobState
PRUNE_JOB_STATE_CANCELLING: PruneJobState
PRUNE_JOB_STATE_SUCCEEDED: PruneJobState
PRUNE_JOB_STATE_FAILED: PruneJobState
PRUNE_JOB_STATE_CANCELLED: PruneJobState
PRUNE_ACTIVATION_OUTCOME_UNSPECIFIED: PruneActivationOutcome
PRUNE_ACTIVATION_OUTCOME_ACTIVATED: PruneActivationOutcome
PRUNE_ACTIVATION_OUTCOME_CONDITION_NOT_MET: PruneActivationOutcome
PRUNE_ACTIVATION_OUTCOME_FAILED: PruneActivationOutcome

class CreatePruneJobRequest(_message.Message):
    __slots__ = ("prune_job", "prune_job_id", "request_id", "validate_only")
    PRUNE_JOB_FIELD_NUMBER: _ClassVar[int]
    PRUNE_JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    prune_job: PruneJob
    prune_job_id: str
    request_id: str
    validate_only: bool
    def __init__(self, prune_job: _Optional[_Union[PruneJob, _Mapping]] = ..., prune_job_id: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetPruneJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListPruneJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPruneJobsResponse(_message.Message):
    __slots__ = ("prune_jobs", "next_page_token")
    PRUNE_JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prune_jobs: _containers.RepeatedCompositeFieldContainer[PruneJob]
    next_page_token: str
    def __init__(self, prune_jobs: _Optional[_Iterable[_Union[PruneJob, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeletePruneJobRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class RunPruneJobRequest(_message.Message):
    __slots__ = ("name", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CancelPruneJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchPruneJobRequest(_message.Message):
    __slots__ = ("name", "resume_cursor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_CURSOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    resume_cursor: int
    def __init__(self, name: _Optional[str] = ..., resume_cursor: _Optional[int] = ...) -> None: ...

class WatchPruneJobResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: PruneJobEvent
    def __init__(self, event: _Optional[_Union[PruneJobEvent, _Mapping]] = ...) -> None: ...

class PruneJob(_message.Message):
    __slots__ = ("name", "display_name", "spec", "activation", "state", "create_time", "update_time", "etag", "operation", "progress", "result", "error", "folder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    spec: PruneSpec
    activation: PruneActivation
    state: PruneJobState
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    operation: str
    progress: PruneProgress
    result: PruneJobResult
    error: _status_pb2.Status
    folder: str
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., spec: _Optional[_Union[PruneSpec, _Mapping]] = ..., activation: _Optional[_Union[PruneActivation, _Mapping]] = ..., state: _Optional[_Union[PruneJobState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., operation: _Optional[str] = ..., progress: _Optional[_Union[PruneProgress, _Mapping]] = ..., result: _Optional[_Union[PruneJobResult, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., folder: _Optional[str] = ...) -> None: ...

class PruneSpec(_message.Message):
    __slots__ = ("model", "path", "keep", "budget", "speedup", "corpora", "validation", "recipe", "evaluations", "patience", "seed", "window", "calibration_tokens", "search_windows", "quantum", "tp", "protect", "max_shapes", "batch", "context", "latency_table", "criterion", "sampler", "repair", "predictor", "workers", "dtype", "drop_extra_tokens", "device")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    CORPORA_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    QUANTUM_FIELD_NUMBER: _ClassVar[int]
    TP_FIELD_NUMBER: _ClassVar[int]
    PROTECT_FIELD_NUMBER: _ClassVar[int]
    MAX_SHAPES_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_TABLE_FIELD_NUMBER: _ClassVar[int]
    CRITERION_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DROP_EXTRA_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    path: str
    keep: _containers.RepeatedScalarFieldContainer[float]
    budget: str
    speedup: float
    corpora: _containers.RepeatedScalarFieldContainer[str]
    validation: _containers.RepeatedScalarFieldContainer[str]
    recipe: str
    evaluations: int
    patience: int
    seed: int
    window: int
    calibration_tokens: int
    search_windows: int
    quantum: int
    tp: int
    protect: str
    max_shapes: int
    batch: int
    context: int
    latency_table: str
    criterion: str
    sampler: str
    repair: str
    predictor: str
    workers: int
    dtype: str
    drop_extra_tokens: bool
    device: str
    def __init__(self, model: _Optional[str] = ..., path: _Optional[str] = ..., keep: _Optional[_Iterable[float]] = ..., budget: _Optional[str] = ..., speedup: _Optional[float] = ..., corpora: _Optional[_Iterable[str]] = ..., validation: _Optional[_Iterable[str]] = ..., recipe: _Optional[str] = ..., evaluations: _Optional[int] = ..., patience: _Optional[int] = ..., seed: _Optional[int] = ..., window: _Optional[int] = ..., calibration_tokens: _Optional[int] = ..., search_windows: _Optional[int] = ..., quantum: _Optional[int] = ..., tp: _Optional[int] = ..., protect: _Optional[str] = ..., max_shapes: _Optional[int] = ..., batch: _Optional[int] = ..., context: _Optional[int] = ..., latency_table: _Optional[str] = ..., criterion: _Optional[str] = ..., sampler: _Optional[str] = ..., repair: _Optional[str] = ..., predictor: _Optional[str] = ..., workers: _Optional[int] = ..., dtype: _Optional[str] = ..., drop_extra_tokens: _Optional[bool] = ..., device: _Optional[str] = ...) -> None: ...

class PruneActivation(_message.Message):
    __slots__ = ("model", "max_perplexity", "max_perplexity_ratio")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    MAX_PERPLEXITY_RATIO_FIELD_NUMBER: _ClassVar[int]
    model: str
    max_perplexity: float
    max_perplexity_ratio: float
    def __init__(self, model: _Optional[str] = ..., max_perplexity: _Optional[float] = ..., max_perplexity_ratio: _Optional[float] = ...) -> None: ...

class PruneProgress(_message.Message):
    __slots__ = ("stage", "stage_done", "stage_total", "evaluations_done", "evaluations_total", "best", "predictor_tau", "stage_remaining", "attempt")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_DONE_FIELD_NUMBER: _ClassVar[int]
    STAGE_TOTAL_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_DONE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_TAU_FIELD_NUMBER: _ClassVar[int]
    STAGE_REMAINING_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    stage: str
    stage_done: int
    stage_total: int
    evaluations_done: int
    evaluations_total: int
    best: FrontPoint
    predictor_tau: float
    stage_remaining: _duration_pb2.Duration
    attempt: int
    def __init__(self, stage: _Optional[str] = ..., stage_done: _Optional[int] = ..., stage_total: _Optional[int] = ..., evaluations_done: _Optional[int] = ..., evaluations_total: _Optional[int] = ..., best: _Optional[_Union[FrontPoint, _Mapping]] = ..., predictor_tau: _Optional[float] = ..., stage_remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., attempt: _Optional[int] = ...) -> None: ...

class FrontPoint(_message.Message):
    __slots__ = ("id", "kept", "kl")
    ID_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    id: str
    kept: float
    kl: float
    def __init__(self, id: _Optional[str] = ..., kept: _Optional[float] = ..., kl: _Optional[float] = ...) -> None: ...

class PruneJobResult(_message.Message):
    __slots__ = ("checkpoints", "activation")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[PruneCheckpoint]
    activation: PruneActivationResult
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[PruneCheckpoint, _Mapping]]] = ..., activation: _Optional[_Union[PruneActivationResult, _Mapping]] = ...) -> None: ...

class PruneCheckpoint(_message.Message):
    __slots__ = ("folder", "parameters", "kept", "dense_perplexity", "slim_perplexity", "evaluations")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    DENSE_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    SLIM_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    folder: str
    parameters: ParameterCounts
    kept: ParameterCounts
    dense_perplexity: float
    slim_perplexity: float
    evaluations: int
    def __init__(self, folder: _Optional[str] = ..., parameters: _Optional[_Union[ParameterCounts, _Mapping]] = ..., kept: _Optional[_Union[ParameterCounts, _Mapping]] = ..., dense_perplexity: _Optional[float] = ..., slim_perplexity: _Optional[float] = ..., evaluations: _Optional[int] = ...) -> None: ...

class ParameterCounts(_message.Message):
    __slots__ = ("total", "non_embedding")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NON_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    total: int
    non_embedding: int
    def __init__(self, total: _Optional[int] = ..., non_embedding: _Optional[int] = ...) -> None: ...

class PruneActivationResult(_message.Message):
    __slots__ = ("outcome", "model", "model_version", "reason")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    outcome: PruneActivationOutcome
    model: str
    model_version: str
    reason: str
    def __init__(self, outcome: _Optional[_Union[PruneActivationOutcome, str]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PruneJobMetadata(_message.Message):
    __slots__ = ("prune_job", "state", "progress", "create_time", "end_time")
    PRUNE_JOB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    prune_job: str
    state: PruneJobState
    progress: PruneProgress
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, prune_job: _Optional[str] = ..., state: _Optional[_Union[PruneJobState, str]] = ..., progress: _Optional[_Union[PruneProgress, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PruneJobEvent(_message.Message):
    __slots__ = ("sequence", "time", "run", "state", "progress", "front", "message", "heartbeat", "ended")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FRONT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    run: int
    state: StateChange
    progress: PruneProgress
    front: Front
    message: str
    heartbeat: Heartbeat
    ended: _operations_pb2.Operation
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., run: _Optional[int] = ..., state: _Optional[_Union[StateChange, _Mapping]] = ..., progress: _Optional[_Union[PruneProgress, _Mapping]] = ..., front: _Optional[_Union[Front, _Mapping]] = ..., message: _Optional[str] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., ended: _Optional[_Union[_operations_pb2.Operation, _Mapping]] = ...) -> None: ...

class StateChange(_message.Message):
    __slots__ = ("state", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: PruneJobState
    reason: str
    def __init__(self, state: _Optional[_Union[PruneJobState, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Front(_message.Message):
    __slots__ = ("joined",)
    JOINED_FIELD_NUMBER: _ClassVar[int]
    joined: _containers.RepeatedCompositeFieldContainer[FrontPoint]
    def __init__(self, joined: _Optional[_Iterable[_Union[FrontPoint, _Mapping]]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
