"""Whoever evaluates, this process, its workers or the actors of a cluster, measures the same to the bit.

Proven for every recipe, with and without repair: one way to open the library serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.config.prune import RECIPES, REPAIRS, PruneOptions
from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture
from secateur.progress import SilentReporter, StageTimer
from secateur.prune.prepared_run import PreparedRun, prepare
from tests.evaluation.conformance import random_architectures

FAST = (("secateur", "auto"), ("paper", "none"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def prepared_run(
    tiny_llama: Path, english: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], PreparedRun]:
    """A job of each recipe and repair, ready to search; prepared once for all ways to evaluate."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "text.txt").write_text(english[:24_000])
    runs: dict[tuple[str, str], PreparedRun] = {}

    def prepare_once(recipe: str, repair: str) -> PreparedRun:
        if (recipe, repair) not in runs:
            options = PruneOptions(
                model=str(tiny_llama),
                out=folder / f"{recipe}-{repair}",
                keep=(0.7,),
                corpus=(str(folder / "text.txt"),),
                recipe=recipe,
                repair=repair,
                evaluations=20,
                window=32,
                calibration_tokens=3200,
                search_windows=8,
                quantum=32,
            )
            runs[recipe, repair] = prepare(options, SilentReporter(), StageTimer())
        return runs[recipe, repair]

    return prepare_once


def measurements(prepared: PreparedRun, **machine: Any) -> dict[Architecture, Measurement]:
    run = replace(prepared, options=replace(prepared.options, **machine))
    with run.evaluator() as evaluator:
        return dict(evaluator.evaluate(random_architectures(run.space, 6)))


@pytest.mark.parametrize(
    ("recipe", "repair"),
    [
        pytest.param(recipe, repair, marks=() if (recipe, repair) in FAST else pytest.mark.slow)
        for recipe in RECIPES
        for repair in REPAIRS
    ],
)
def test_workers_measure_what_one_process_measures(
    recipe: str, repair: str, prepared_run: Callable[[str, str], PreparedRun]
) -> None:
    prepared = prepared_run(recipe, repair)
    assert measurements(prepared, workers=2) == measurements(prepared)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra [ray] is not installed")
@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_actors_measure_what_one_process_measures(
    recipe: str, repair: str, prepared_run: Callable[[str, str], PreparedRun]
) -> None:
    import ray

    prepared = prepared_run(recipe, repair)
    try:
        assert measurements(prepared, ray="local", workers=2) == measurements(prepared)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("recipe", RECIPES)
def test_repair_makes_a_difference(recipe: str, prepared_run: Callable[[str, str], PreparedRun]) -> None:
    """So what is compared above is not the same library twice."""
    assert measurements(prepared_run(recipe, "auto")) != measurements(prepared_run(recipe, "none"))
