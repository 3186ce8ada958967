"""A job's process tells the state database how far it is."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from google.protobuf import duration_pb2
from sqlalchemy.exc import SQLAlchemyError

from secateur.progress import ProgressReporter
from secateur.prune.prepared_run import PreparedRun
from secateur.search.loop import SearchProgress
from secateur.serve.failures import RpcError
from secateur.serve.jobs.pareto import ParetoFront
from secateur.serve.jobs.store import JobStore
from secateur.study.trial import best_first
from secateur.v1 import prune_pb2

INTERVAL_SECONDS = 0.5  # between two notes of progress within a stage
log = logging.getLogger(__name__)


class JobReporter(ProgressReporter):
    """Reporter and observer of a prune job: what they are told becomes the job's events.

    A database that cannot be written to does not stop the work: every note has the whole progress, so the
    next one makes up for it.

    Args:
        number: of the job.
        run: of the job.
        evaluations: how many there are to be at most.
    """

    def __init__(self, store: JobStore, number: int, run: int, evaluations: int) -> None:
        self._store, self._number, self._run = store, number, run
        self._progress = prune_pb2.PruneProgress(evaluations_total=evaluations)
        self._points: ParetoFront | None = None
        self._stage_started = self._reported_at = 0.0
        self._has_unreported = False

    def stage(self, name: str, total: int) -> None:
        self._progress.stage, self._progress.stage_done, self._progress.stage_total = name, 0, total
        self._stage_started = time.monotonic()
        self._report()

    def step(self, note: str = "", count: int = 1) -> None:
        """Steps of the stage are done."""
        self._progress.stage_done += count
        self._has_unreported = True
        if time.monotonic() - self._reported_at >= INTERVAL_SECONDS:
            self._report()

    def message(self, line: str) -> None:
        """Something worth a line."""
        self.flush()
        self._report_ignoring_errors(lambda: self._store.add_message(self._number, self._run, line))

    def begin(self, prepared: PreparedRun) -> None:
        """The search begins; what earlier runs evaluated counts."""
        cost = prepared.goals[0].budget.limits[0].cost
        self._points = ParetoFront(cost, prepared.space.dense)
        pairs = list(prepared.study.trials.values())
        for pair in pairs:
            self._points.add(pair)
        num_evaluated = sum(pair.round > 0 for pair in pairs)
        self._progress.evaluations_done = min(num_evaluated, self._progress.evaluations_total)
        fitting = best_first(p for p in pairs if prepared.goals[0].budget.fits(p.architecture))
        if fitting:
            self._progress.best.CopyFrom(self._points.point(fitting[0]))

    def evaluated(self, progress: SearchProgress) -> None:
        assert self._points is not None  # begin() came before
        self._points.add(progress.trial)
        if progress.stage == "search":
            self._progress.evaluations_done = progress.done
        if progress.best is not None:
            self._progress.best.CopyFrom(self._points.point(progress.best))
        if progress.quality is not None:
            self._progress.predictor_tau = progress.quality.tau

    def flush(self) -> None:
        """Tell what was held back."""
        if self._has_unreported:
            self._report()

    def _report(self) -> None:
        remaining = self._remaining()
        self._progress.ClearField("stage_remaining")
        if remaining is not None:
            self._progress.stage_remaining.CopyFrom(remaining)
        joined = self._points.unreported if self._points else []
        if self._report_ignoring_errors(
            lambda: self._store.set_progress(self._number, self._run, self._progress, joined)
        ):
            if self._points:
                self._points.mark_reported(joined)
            self._has_unreported = False
        self._reported_at = time.monotonic()

    def _report_ignoring_errors(self, report: Callable[[], None]) -> bool:
        try:
            report()
        except (SQLAlchemyError, RpcError) as error:
            log.warning("progress could not be told: %s", " ".join(str(error).split())[:200])
            return False
        return True

    def _remaining(self) -> duration_pb2.Duration | None:
        done, total = self._progress.stage_done, self._progress.stage_total
        if not 0 < done <= total:
            return None
        elapsed = time.monotonic() - self._stage_started
        remaining = duration_pb2.Duration()
        remaining.FromMilliseconds(math.ceil(1e3 * elapsed / done * (total - done)))
        return remaining
