"""What `secateur evaluate` can refuse before torch is imported, which takes seconds."""

from __future__ import annotations

from secateur.calibrate.corpus import check_corpora
from secateur.checkpoint.source import check_location
from secateur.config.evaluate import MMLU, EvaluateOptions
from secateur.errors import BadInput
from secateur.evaluation.tasks.mmlu import subject_files


def check_before_start(options: EvaluateOptions) -> None:
    """Check that what is named is there.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, BackendUnavailable: a corpus, a task's data or a model
            is not there.
    """
    if options.corpus:
        check_corpora(options.corpus)
    if MMLU in options.tasks:
        subject_files(options.task_data)
    for corpus in options.task_corpora:
        try:
            check_corpora((corpus,))
        except BadInput as error:
            raise BadInput("tasks", ",".join(options.tasks), f"{corpus}: {error.allowed}") from error
    check_location(options.model, options.window)
    if options.dense:
        try:
            check_location(options.dense, options.window)
        except BadInput as error:
            raise BadInput("dense", error.given, error.allowed) from error
