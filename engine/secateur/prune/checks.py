"""What can be refused before torch is imported, which takes seconds: places, files and names."""

from __future__ import annotations

from secateur.calibrate.corpus import check_corpora
from secateur.checkpoint.source import check_location
from secateur.config.prune import PruneOptions, is_database_url
from secateur.errors import BadInput
from secateur.storage import check_new_path


def check_before_start(options: PruneOptions) -> None:
    """Check where results go, that what is named is there, and the database.

    Raises:
        BadInput: a folder that exists or cannot be made, a corpus, model or table that is not there, or a
            database that is not supported.
        BackendUnavailable: the driver of the database is not installed.
    """
    check_places(options)
    check_corpora(options.corpus, with_self=True)
    if options.validation:
        check_corpora(options.validation)
    if options.latency_table is not None and not options.latency_table.is_file():
        raise BadInput("latency_table", options.latency_table, "No such file or directory")
    check_location(options.model, options.window)


def check_places(options: PruneOptions) -> None:
    """Check where results and the study go.

    Raises:
        BadInput, BackendUnavailable: as `check_before_start`.
    """
    for out in options.outs:
        check_new_path("out", out)
    if is_database_url(options.study_url):
        from secateur.study.storage import check_storage

        check_storage(options.study_url)
