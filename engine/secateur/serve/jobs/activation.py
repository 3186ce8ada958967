"""Putting a job's result into service, if it is good enough."""

from __future__ import annotations

import logging
from pathlib import Path

from secateur.serve.failures import RpcError
from secateur.serve.models.deployments import DeploymentManager
from secateur.v1 import prune_pb2

log = logging.getLogger(__name__)


async def activate_if_good(
    conditions: prune_pb2.PruneActivation,
    checkpoint: prune_pb2.PruneCheckpoint,
    deployments: DeploymentManager,
) -> prune_pb2.PruneActivationResult:
    """Load and activate a checkpoint if it meets the conditions; says what became of it."""
    result = prune_pb2.PruneActivationResult(model=conditions.model)
    if reason := unmet_condition(conditions, checkpoint):
        result.outcome = prune_pb2.PRUNE_ACTIVATION_OUTCOME_CONDITION_NOT_MET
        result.reason = reason
        return result
    try:
        result.model_version = await deployments.load(conditions.model, Path(checkpoint.folder))
        await deployments.activate(conditions.model, result.model_version)
        result.outcome = prune_pb2.PRUNE_ACTIVATION_OUTCOME_ACTIVATED
    except Exception as error:  # the checkpoint is made whatever comes; the reason is told
        if not isinstance(error, RpcError):
            log.exception("a result could not be activated")
        result.outcome = prune_pb2.PRUNE_ACTIVATION_OUTCOME_FAILED
        result.reason = str(error) or type(error).__name__
    return result


def unmet_condition(conditions: prune_pb2.PruneActivation, checkpoint: prune_pb2.PruneCheckpoint) -> str:
    """The condition that does not hold, in words; empty if all do."""
    slim, dense = checkpoint.slim_perplexity, checkpoint.dense_perplexity
    if conditions.HasField("max_perplexity") and not slim <= conditions.max_perplexity:
        return f"perplexity {slim:.4g} is over {conditions.max_perplexity:g}"
    ratio = slim / dense
    if conditions.HasField("max_perplexity_ratio") and not ratio <= conditions.max_perplexity_ratio:
        max_ratio = conditions.max_perplexity_ratio
        return f"perplexity {slim:.4g} is {ratio:.4g} times the dense model's, over {max_ratio:g}"
    return ""
