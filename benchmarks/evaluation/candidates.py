"""A real search on real text: where the candidates of this benchmark come from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.calibration import Calibration, CalibrationConfig, calibrate
from secateur.calibrate.corpus import cut_windows, load_corpus
from secateur.checkpoint.source import open_source
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.model.architecture import Architecture
from secateur.model.decoder import architecture_of
from secateur.model.units import permute
from secateur.search.loop import Search
from secateur.search.samplers.random_search import random_architecture
from secateur.space.budget import Budget, Goal, budget_of
from secateur.space.space import Space
from secateur.study.study import Study

WINDOW = 256
CALIBRATION_WINDOWS = 64
SEARCH_WINDOWS = 4
QUANTUM = 64
SEED = 0


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        library: the model at every width, bf16.
        exact: the same in fp32.
        windows: 128 windows that neither calibration nor search saw.
        rounds: the generations of a search, in the order of its evaluations.
        random: architectures drawn at random within the same budget: what a predictor is fitted on.
    """

    library: BlockLibrary
    exact: BlockLibrary
    windows: Tensor
    rounds: list[list[Architecture]]
    random: list[Architecture]


@contextmanager
def subject(text: Path, model_name: str, keep: float, evaluations: int) -> Iterator[Subject]:
    """Calibrate, search a little, and hand over the model with its candidates."""
    source = open_source(model_name)
    model = source.load_model()
    windows = cut_windows(load_corpus(str(text)), source.tokenizer(), WINDOW)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "calibration"
        with torch.inference_mode():
            for _ in calibrate(
                model.to(torch.bfloat16), windows[:CALIBRATION_WINDOWS], folder, CalibrationConfig()
            ):
                pass
        calibration = Calibration(folder)
        ordered = permute(model, calibration.orders)
        library = BlockLibrary(ordered, calibration.repairs, torch.bfloat16)
        exact = BlockLibrary(ordered.to(torch.float32), calibration.repairs, torch.float32)
        space = Space(architecture_of(model), QUANTUM)
        seen = windows[CALIBRATION_WINDOWS : CALIBRATION_WINDOWS + SEARCH_WINDOWS]
        rounds = _search(library, space, seen, keep, evaluations, Path(scratch) / "study")
        unseen = windows[CALIBRATION_WINDOWS + SEARCH_WINDOWS :][:128]
        drawn = _random(space, budget_of(model, space, {"params": keep}, field="keep"), evaluations)
        yield Subject(library, exact, unseen, rounds, drawn)


def _search(
    library: BlockLibrary, space: Space, windows: Tensor, keep: float, evaluations: int, folder: Path
) -> list[list[Architecture]]:
    budget = budget_of(library.master, space, {"params": keep}, field="keep")
    study = Study(folder, space, {"benchmark": "evaluation"})
    evaluator = PrefixEvaluator(library, windows)
    search = Search(space, [Goal("", budget)], library, evaluator, study, evaluations=evaluations, seed=SEED)
    rounds: dict[int, list[Architecture]] = {}
    for progress in search.run():
        if progress.stage == "search":
            rounds.setdefault(progress.trial.round, []).append(progress.trial.architecture)
    return [rounds[number] for number in sorted(rounds)]


def _random(space: Space, budget: Budget, count: int) -> list[Architecture]:
    """Distinct random architectures that spend the budget."""
    rng = np.random.default_rng(SEED)
    drawn: dict[Architecture, None] = {}
    while len(drawn) < count:
        drawn[random_architecture(space, budget, rng)] = None
    return list(drawn)
