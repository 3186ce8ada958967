"""The process of a job: ``python -m secateur.serve.jobs.runner FOLDER NUMBER NICE DEVICE``.

It needs nothing of the server but the folder and the state database. What it evaluates lies in the study
as soon as it is evaluated, so it may be killed at any time and started again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from secateur.config.proto_fields import field_of
from secateur.config.prune import PruneOptions
from secateur.config.values import from_json
from secateur.errors import BadInput, SecateurError
from secateur.serve.jobs.process import LOCKED_EXIT_STATUS, STATE_VARIABLE, acquire_job_lock

REFUSED_EXIT_STATUS = 2


def main(folder: Path, number: int, nice: int, device: str) -> int:
    """Do the job of that number; returns the exit status: 0 done, 2 refused, 75 another process is at it."""
    lock = acquire_job_lock(folder)  # before what takes seconds to import
    if lock is None:
        return LOCKED_EXIT_STATUS
    lower_priority(nice)
    return _prune(folder, number, device)


def lower_priority(nice: int) -> None:
    """Give way to the server: for processor time, and to whoever has to be killed where memory runs out."""
    with suppress(OSError):
        os.nice(nice)
    # Where Linux groups processes by session, niceness counts only within the session: the group has its own.
    for file, value in (("autogroup", nice), ("oom_score_adj", 500)):
        with suppress(OSError):
            Path(f"/proc/self/{file}").write_text(str(value))


def _prune(folder: Path, number: int, device: str) -> int:
    from secateur.prune.pipeline import prune_all
    from secateur.serve.jobs.outcome import JobOutcome, write_outcome
    from secateur.serve.jobs.reporter import JobReporter
    from secateur.serve.jobs.store import JobStore
    from secateur.serve.state import open_state

    try:
        store = JobStore(open_state(os.environ[STATE_VARIABLE]), home="")
        row = store.read(number)
        options = replace(from_json(PruneOptions, json.loads(row.options)), device=device)
        if not _is_done(options):
            reporter = JobReporter(store, number, row.run, options.evaluations)
            prune_all(options, reporter, observer=reporter)
            reporter.flush()
    except SecateurError as refused:
        error = refused.with_names(partial(field_of, PruneOptions))  # the job's client gave fields, not flags
        print(f"error: {error}", file=sys.stderr)
        field = error.field if isinstance(error, BadInput) else ""
        write_outcome(folder, JobOutcome(refusal=str(error), field=field))
        return REFUSED_EXIT_STATUS
    write_outcome(folder, JobOutcome(checkpoints=tuple(str(out) for out in options.outs)))
    return 0


def _is_done(options: PruneOptions) -> bool:
    """Whether an earlier process made all checkpoints and was killed before it could say so.

    If it made only some, they are removed: they are cut again from the study, which has everything.
    """
    made = [out for out in options.outs if out.exists()]
    if len(made) == len(options.outs):
        return True
    for out in made:
        shutil.rmtree(out)
    return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
