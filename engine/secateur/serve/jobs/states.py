"""The states of a job, and what may happen to it in each."""

from __future__ import annotations

from secateur.v1 import prune_pb2

CREATED = prune_pb2.PRUNE_JOB_STATE_CREATED
QUEUED = prune_pb2.PRUNE_JOB_STATE_QUEUED
RUNNING = prune_pb2.PRUNE_JOB_STATE_RUNNING
RETRYING = prune_pb2.PRUNE_JOB_STATE_RETRYING
ACTIVATING = prune_pb2.PRUNE_JOB_STATE_ACTIVATING
CANCELLING = prune_pb2.PRUNE_JOB_STATE_CANCELLING
SUCCEEDED = prune_pb2.PRUNE_JOB_STATE_SUCCEEDED
FAILED = prune_pb2.PRUNE_JOB_STATE_FAILED
CANCELLED = prune_pb2.PRUNE_JOB_STATE_CANCELLED

ACTIVE_STATES = (QUEUED, RUNNING, RETRYING, ACTIVATING, CANCELLING)
TERMINAL_STATES = (SUCCEEDED, FAILED, CANCELLED)
RUNNABLE_STATES = (CREATED, FAILED, CANCELLED)


def name_of(state: int) -> str:
    """A state in a word, such as ``running``."""
    return prune_pb2.PruneJobState.Name(state).removeprefix("PRUNE_JOB_STATE_").lower()
