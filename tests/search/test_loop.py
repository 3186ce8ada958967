"""The search loop: interrupted anywhere and started again, it ends where it would have ended.

Proven on a real tiny model with the real evaluator, predictor and study, over every point of
interruption: the same trials to the bit in the same rounds, the same winner, no candidate twice.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from xgboost import XGBRegressor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderModel
from secateur.search import regressors as regressors_module
from secateur.search.loop import MIN_IMPROVEMENT, Search, SearchProgress
from secateur.search.samplers import guided as guided_module
from secateur.search.samplers.sampler import ROUND_SIZE
from secateur.search.table import single_cuts
from secateur.space.budget import Budget, Goal, Limit, budget_of
from secateur.space.space import Space
from secateur.study.storage import JOURNAL
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture

EVALUATIONS = ROUND_SIZE + 10  # several rounds, the trees fitted in each but the first


class Remembering(Evaluator):
    """The real evaluator, and what it was asked for; values are kept between the searches of this file."""

    known: dict[Architecture, Measurement] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, library: BlockLibrary, windows: Tensor) -> None:
        self._evaluator = PrefixEvaluator(library, windows)
        self.asked: list[Architecture] = []

    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        for candidate in sorted(set(candidates), key=lambda item: item.path):
            self.asked.append(candidate)
            if candidate not in self.known:
                (trial,) = self._evaluator.evaluate([candidate])
                self.known[candidate] = trial[1]
            yield candidate, self.known[candidate]


class Bench:
    """Everything a search needs, for one study folder."""

    def __init__(self, library: BlockLibrary, space: Space, budget: Budget, windows: Tensor) -> None:
        self.library, self.space, self.budget = library, space, budget
        self.evaluator = Remembering(library, windows)

    def search(self, folder: Path, *, evaluations: int = EVALUATIONS, seed: int = 0) -> Search:
        study = Study(folder, self.space, {"seed": seed})
        return Search(
            self.space,
            [Goal("0.6", self.budget)],
            self.library,
            self.evaluator,
            study,
            evaluations=evaluations,
            seed=seed,
        )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads gain nothing on matrices this small, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """The same loop with fewer children and smaller forests."""
    patch.setattr(guided_module, "CHILDREN", 50)
    patch.setattr(regressors_module, "ENSEMBLE", 2)
    patch.setattr(
        regressors_module,
        "_xgboost",
        lambda seed: XGBRegressor(n_estimators=10, max_depth=2, random_state=seed, subsample=0.7, n_jobs=1),
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture
def bench(library: BlockLibrary, space: Space, budget: Budget, windows: Tensor) -> Bench:
    return Bench(library, space, budget, windows)


def finish(search: Search) -> tuple[list[SearchProgress], list[EvaluatedArchitecture]]:
    return list(search.run()), search._study.ranked(search._goals[0].budget)


def pairs_of(search: Search) -> dict[Architecture, EvaluatedArchitecture]:
    return search._study.trials


class TestWhole:
    def test_evaluates_what_it_was_given(self, bench: Bench, tmp_path: Path) -> None:
        search = bench.search(tmp_path)
        steps, ranked = finish(search)
        cuts = single_cuts(bench.space)
        assert [step.stage for step in steps] == ["table"] * len(cuts) + ["search"] * EVALUATIONS
        assert [step.done for step in steps[len(cuts) :]] == list(range(1, EVALUATIONS + 1))
        assert len(bench.evaluator.asked) == len(set(bench.evaluator.asked)) == len(cuts) + EVALUATIONS
        found = [trial for trial in pairs_of(search).values() if trial.round > 0]
        assert len(found) == EVALUATIONS
        assert all(bench.budget.fits(trial.architecture) for trial in found)
        assert {1, 2, 3} <= {trial.round for trial in found}
        assert steps[-1].best == ranked[0]

    def test_ranked_is_best_first_and_fits(self, bench: Bench, tmp_path: Path) -> None:
        _, ranked = finish(bench.search(tmp_path))
        kl = [trial.measurement.kl for trial in ranked]
        assert kl == sorted(kl) and all(bench.budget.fits(trial.architecture) for trial in ranked)

    def test_search_improves_on_its_seeds(self, bench: Bench, tmp_path: Path) -> None:
        _, ranked = finish(bench.search(tmp_path))
        assert ranked[0].measurement.kl <= min(trial.measurement.kl for trial in ranked if trial.round == 1)

    def test_same_seed_same_search(self, bench: Bench, tmp_path: Path) -> None:
        first, second = bench.search(tmp_path / "a"), bench.search(tmp_path / "b")
        assert finish(first) == finish(second)
        assert pairs_of(first) == pairs_of(second)
        assert first.selected_predictor is not None and second.selected_predictor is not None
        assert first.selected_predictor.quality == second.selected_predictor.quality

    def test_another_seed_another_search(self, bench: Bench, tmp_path: Path) -> None:
        first, second = bench.search(tmp_path / "a"), bench.search(tmp_path / "b", seed=1)
        finish(first), finish(second)
        assert pairs_of(first).keys() != pairs_of(second).keys()

    @pytest.mark.parametrize("evaluations", [1, 3, ROUND_SIZE, ROUND_SIZE + 1])
    def test_few_evaluations(self, evaluations: int, bench: Bench, tmp_path: Path) -> None:
        search = bench.search(tmp_path, evaluations=evaluations)
        finish(search)
        assert sum(trial.round > 0 for trial in pairs_of(search).values()) == evaluations


class TestSeveralBudgets:
    KEEPS = (0.8, 0.6, 0.4)

    def search(
        self, bench: Bench, folder: Path, model: DecoderModel, evaluations: int = 3 * ROUND_SIZE
    ) -> Search:
        goals = [Goal(f"{keep:g}", budget_of(model, bench.space, {"params": keep})) for keep in self.KEEPS]
        study = Study(folder, bench.space, {"seed": 0})
        return Search(
            bench.space, goals, bench.library, bench.evaluator, study, evaluations=evaluations, seed=0
        )

    def test_rounds_in_turn_and_pairs_for_all(
        self, bench: Bench, model: DecoderModel, tmp_path: Path
    ) -> None:
        search = self.search(bench, tmp_path, model, 6 * ROUND_SIZE)
        steps = [step for step in search.run() if step.stage == "search"]
        goals = {goal.name: goal for goal in search._goals}
        of_round = {step.trial.round: step.goal for step in steps}
        assert [of_round[number] for number in (1, 2, 3)] == ["0.8", "0.6", "0.4"]
        for step in steps:
            assert step.goal is not None
            assert goals[step.goal].budget.fits(step.trial.architecture)
        for goal in search._goals:
            assert search._study.ranked(goal.budget), goal.name
        best = [search._study.ranked(goal.budget)[0].measurement.kl for goal in search._goals]
        assert best == sorted(best)  # a smaller budget never loses less

    def test_interrupted_anywhere_it_is_the_same(
        self, bench: Bench, model: DecoderModel, tmp_path: Path
    ) -> None:
        whole = self.search(bench, tmp_path / "whole", model)
        steps = len(list(whole.run()))
        for stop in range(0, steps, 5):
            folder = tmp_path / str(stop)
            going = self.search(bench, folder, model).run()
            for _, _ in zip(range(stop), going, strict=False):
                pass
            going.close()
            again = self.search(bench, folder, model)
            list(again.run())
            assert pairs_of(again) == pairs_of(whole)

    def test_the_study_says_what_was_done(self, bench: Bench, model: DecoderModel, tmp_path: Path) -> None:
        search = self.search(bench, tmp_path, model)
        list(search.run())
        study = Study(tmp_path, bench.space, {"seed": 0})
        assert [goal["name"] for goal in study.get_attr("goals")] == ["0.8", "0.6", "0.4"]
        rounds = study.get_attr("rounds")
        assert [note["number"] for note in rounds] == list(range(1, len(rounds) + 1))
        assert sum(note["proposals"] for note in rounds) == 3 * ROUND_SIZE
        assert any(trial.predicted is not None for trial in study.trials.values())
        assert search.table is not None
        assert study.get_attr("table")["layer_000.channels"]["0"] == search.table.kl[0, "ffn"][0]


class TestPatience:
    def test_ends_when_nothing_is_gained(self, bench: Bench, tmp_path: Path) -> None:
        study = Study(tmp_path, bench.space, {"seed": 0})
        search = Search(
            bench.space,
            [Goal("0.6", bench.budget)],
            bench.library,
            bench.evaluator,
            study,
            evaluations=400,
            seed=0,
            patience=1,
        )
        list(search.run())
        best = [note["best_kl"] for note in study.get_attr("rounds")]
        assert len(best) >= 2 and best[-1] > best[-2] * (1 - MIN_IMPROVEMENT)
        assert all(after < before * (1 - MIN_IMPROVEMENT) for before, after in pairwise(best[:-1]))


class TestInterrupted:
    @pytest.fixture(scope="class")
    @classmethod
    def expected(
        cls,
        library: BlockLibrary,
        space: Space,
        budget: Budget,
        windows: Tensor,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> tuple[dict[Architecture, EvaluatedArchitecture], list[EvaluatedArchitecture]]:
        """What an uninterrupted search finds."""
        with pytest.MonkeyPatch.context() as patch:
            make_small(patch)
            search = Bench(library, space, budget, windows).search(tmp_path_factory.mktemp("whole"))
            _, ranked = finish(search)
        return pairs_of(search), ranked

    @pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
    def test_at_every_point(
        self,
        stride: int,
        bench: Bench,
        tmp_path: Path,
        expected: tuple[dict[Architecture, EvaluatedArchitecture], list[EvaluatedArchitecture]],
    ) -> None:
        trials, ranked = expected
        for steps in range(0, len(trials), stride):
            folder = tmp_path / str(steps)
            self.interrupted(bench, folder, steps)
            self.check(bench, folder, trials, ranked)

    @pytest.mark.parametrize("point", ["start", "mid-table", "round-1", "round-2", "last"])
    def test_in_the_middle_of_a_line(
        self,
        point: str,
        bench: Bench,
        tmp_path: Path,
        expected: tuple[dict[Architecture, EvaluatedArchitecture], list[EvaluatedArchitecture]],
    ) -> None:
        trials, ranked = expected
        cuts = len(single_cuts(bench.space))
        steps = {
            "start": 1,
            "mid-table": cuts // 2,
            "round-1": cuts + 3,
            "round-2": cuts + ROUND_SIZE,
            "last": len(trials),
        }[point]
        self.interrupted(bench, tmp_path, steps)
        journal = tmp_path / JOURNAL
        journal.write_bytes(journal.read_bytes()[:-100])
        self.check(bench, tmp_path, trials, ranked, lost=1)

    def test_again_and_again(
        self,
        bench: Bench,
        tmp_path: Path,
        expected: tuple[dict[Architecture, EvaluatedArchitecture], list[EvaluatedArchitecture]],
    ) -> None:
        trials, ranked = expected
        for _ in range(len(trials) // 4):
            self.interrupted(bench, tmp_path, 4)
        self.check(bench, tmp_path, trials, ranked)

    def test_a_finished_one_evaluates_nothing(
        self,
        bench: Bench,
        tmp_path: Path,
        expected: tuple[dict[Architecture, EvaluatedArchitecture], list[EvaluatedArchitecture]],
    ) -> None:
        trials, ranked = expected
        finish(bench.search(tmp_path))
        bench.evaluator.asked.clear()
        self.check(bench, tmp_path, trials, ranked)
        assert bench.evaluator.asked == []

    def test_more_evaluations_go_on(
        self,
        bench: Bench,
        tmp_path: Path,
        expected: tuple[dict[Architecture, EvaluatedArchitecture], list[EvaluatedArchitecture]],
    ) -> None:
        """A short search that ended on a full round, made longer, is the long one."""
        trials, ranked = expected
        finish(bench.search(tmp_path, evaluations=8 + ROUND_SIZE))
        longer = bench.search(tmp_path)
        finish(longer)
        assert ranked[0].measurement.kl >= longer._study.ranked(longer._goals[0].budget)[0].measurement.kl
        assert len(longer._study.trials) >= len(trials)

    def interrupted(self, bench: Bench, folder: Path, steps: int) -> None:
        going = bench.search(folder).run()
        for _, _ in zip(range(steps), going, strict=False):
            pass
        going.close()
        gc.collect()  # as a killed process does, the study leaves without a word

    def check(
        self,
        bench: Bench,
        folder: Path,
        trials: dict[Architecture, EvaluatedArchitecture],
        ranked: list[EvaluatedArchitecture],
        lost: int = 0,
    ) -> None:
        before = set(Study(folder, bench.space, {"seed": 0}).trials)
        bench.evaluator.asked.clear()
        search = bench.search(folder)
        _, found = finish(search)
        assert pairs_of(search) == trials
        assert found == ranked
        assert set(bench.evaluator.asked) == trials.keys() - before
        assert len(bench.evaluator.asked) == len(trials) - len(before)


class TestSmallSpaces:
    def test_a_single_cut_may_win(
        self, library: BlockLibrary, model: DecoderModel, space: Space, windows: Tensor, tmp_path: Path
    ) -> None:
        """With next to nothing to remove, the best proposals are already in the table."""
        coarse = Space(space.dense, 192)
        cost = budget_of(model, coarse, {"params": 1.0}).limits[0].cost
        budget = Budget((Limit("params", cost, cost.of(space.dense) - 1),))
        search = Bench(library, coarse, budget, windows).search(tmp_path, evaluations=1)
        _, ranked = finish(search)
        assert ranked[0].architecture in single_cuts(coarse)
        assert budget.fits(ranked[0].architecture)

    def test_nothing_to_cut(
        self, library: BlockLibrary, model: DecoderModel, space: Space, windows: Tensor, tmp_path: Path
    ) -> None:
        search = Bench(library, space, budget_of(model, space, {"params": 1.0}), windows).search(tmp_path)
        _, ranked = finish(search)
        assert ranked[0].architecture == space.dense
        assert ranked[0].measurement.kl == 0.0

    def test_the_smallest_feasible_budget(
        self, library: BlockLibrary, model: DecoderModel, space: Space, windows: Tensor, tmp_path: Path
    ) -> None:
        cost = budget_of(model, space, {"params": 1.0}).limits[0].cost
        least = cost.fixed + sum(min(row.values()) for row in cost.table.values())
        budget = Budget((Limit("params", cost, least),))
        search = Bench(library, space, budget, windows).search(tmp_path, evaluations=5)
        _, ranked = finish(search)
        assert [trial.architecture for trial in ranked] == [Architecture((1, 0, 0), (0, 0, 0))]
