"""Actors of a local Ray cluster: values are those of one process to the bit, also when one is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.opening import EvaluatorSpec
from secateur.evaluation.workers.pool import WorkerPool, open_pool
from secateur.space.space import Space
from tests.evaluation.conformance import random_architectures

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")


@pytest.fixture
def pool(spec: EvaluatorSpec) -> Iterator[WorkerPool]:
    with open_pool(spec, 2, "local") as pool:
        yield pool
    ray.shutdown()


@pytest.mark.slow
def test_an_actor_killed_in_mid_search_changes_nothing(
    pool: WorkerPool, library: BlockLibrary, windows: Tensor, space: Space
) -> None:
    shapes = random_architectures(space, 24, seed=5)
    found = []
    for number, item in enumerate(pool.losses(shapes)):
        found.append(item)
        if number == 3:
            ray.kill(pool._backend._actors[0])
    assert len(found) == len(dict(found))
    assert dict(found) == dict(PrefixEvaluator(library, windows).losses(shapes))
    assert pool.deaths == 1
