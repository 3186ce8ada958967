"""What `secateur recover` can refuse before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secateur.calibrate.corpus import check_corpora
from secateur.checkpoint.source import check_location
from secateur.config.recover import RecoverOptions
from secateur.errors import BadInput
from secateur.storage import check_new_path


def check_before_start(options: RecoverOptions) -> None:
    """Check where the result goes, and that what is named is there.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, BackendUnavailable: a place that cannot be written; a
            corpus or a model that is not there.
    """
    check_new_path("out", options.out)
    check_corpora(options.corpus, with_self=True)
    if options.validation:
        with _as_fault_of("validation"):
            check_corpora(options.validation)
    check_location(options.model, options.window)
    if options.dense is not None:
        with _as_fault_of("dense"):
            check_location(options.dense, options.window)


@contextmanager
def _as_fault_of(option: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(option, error.given, error.allowed) from error
