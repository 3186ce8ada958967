"""Whether a result is put into service, and what becomes of the job if that does not work."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.rpc import code_pb2

from secateur.serve.failures import RpcError
from secateur.serve.jobs.activation import activate_if_good, unmet_condition
from secateur.v1 import prune_pb2

CHECKPOINT = prune_pb2.PruneCheckpoint(folder="/jobs/a/slim", dense_perplexity=30.0, slim_perplexity=36.0)


class Models:
    """Remembers what was asked of it; a step may be made to fail."""

    def __init__(self, failing: str = "", error: Exception | None = None) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._failing, self._error = failing, error

    def checkpoint_folder(self, model: str) -> Path:
        raise AssertionError("is not needed to activate")

    async def load(self, model: str, folder: Path) -> str:
        self._note("load", model, str(folder))
        return "7"

    async def activate(self, model: str, version: str) -> None:
        self._note("activate", model, version)

    def _note(self, *asked: str) -> None:
        self.asked.append(asked)
        if asked[0] == self._failing and self._error is not None:
            raise self._error


def wanted(**conditions: float) -> prune_pb2.PruneActivation:
    return prune_pb2.PruneActivation(model="slim", **conditions)


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({}, ""),
        ({"max_perplexity": 36.0}, ""),
        ({"max_perplexity": 35.9}, "perplexity 36 is over 35.9"),
        ({"max_perplexity_ratio": 1.2}, ""),
        ({"max_perplexity_ratio": 1.1}, "perplexity 36 is 1.2 times the dense model's, over 1.1"),
        ({"max_perplexity": 40.0, "max_perplexity_ratio": 1.1}, "perplexity 36 is 1.2 times"),
    ],
)
def test_conditions(conditions: dict[str, float], reason: str) -> None:
    found = unmet_condition(wanted(**conditions), CHECKPOINT)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_a_perplexity_that_is_no_number_meets_nothing() -> None:
    broken = prune_pb2.PruneCheckpoint(dense_perplexity=30.0, slim_perplexity=float("nan"))
    assert unmet_condition(wanted(max_perplexity=1e9), broken)
    assert unmet_condition(wanted(max_perplexity_ratio=1e9), broken)


async def test_activated() -> None:
    models = Models()
    result = await activate_if_good(wanted(), CHECKPOINT, models)
    assert models.asked == [("load", "slim", "/jobs/a/slim"), ("activate", "slim", "7")]
    assert result.outcome == prune_pb2.PRUNE_ACTIVATION_OUTCOME_ACTIVATED
    assert (result.model, result.model_version, result.reason) == ("slim", "7", "")


async def test_nothing_is_loaded_that_is_not_good_enough() -> None:
    models = Models()
    result = await activate_if_good(wanted(max_perplexity=31.0), CHECKPOINT, models)
    assert not models.asked
    assert result.outcome == prune_pb2.PRUNE_ACTIVATION_OUTCOME_CONDITION_NOT_MET
    assert result.reason == "perplexity 36 is over 31"


@pytest.mark.parametrize("step", ["load", "activate"])
@pytest.mark.parametrize(
    "error", [RpcError(code_pb2.RESOURCE_EXHAUSTED, "NO_MEMORY", "no room"), RuntimeError("no room")]
)
async def test_a_step_that_fails_is_told(step: str, error: Exception) -> None:
    """The checkpoint is there all the same: the job has succeeded."""
    result = await activate_if_good(wanted(), CHECKPOINT, Models(step, error))
    assert result.outcome == prune_pb2.PRUNE_ACTIVATION_OUTCOME_FAILED
    assert result.reason == "no room"
    assert result.model_version == ("7" if step == "activate" else "")
