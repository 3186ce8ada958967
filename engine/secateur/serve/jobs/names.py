"""Resource names, page tokens and sizes as clients give them."""

from __future__ import annotations

import re

from secateur.serve.failures import Violation, invalid
from secateur.serve.jobs.wire import JOBS, OPERATIONS

ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
PAGE, LARGEST_PAGE = 50, 1000


def parse_job(name: str, field: str = "name") -> str:
    """The id in ``pruneJobs/ID``.

    Raises:
        Refused: not of that form.
    """
    collection, _, job = name.partition("/")
    if collection != JOBS or not ID.fullmatch(job):
        raise invalid(Violation(field, f"got {name[:100]!r}, give pruneJobs/JOB"))
    return job


def parse_operation(name: str) -> tuple[str, int]:
    """Job and run in ``operations/JOB/RUN``.

    Raises:
        Refused: not of that form.
    """
    collection, _, rest = name.partition("/")
    job, _, run = rest.partition("/")
    if collection != OPERATIONS or not ID.fullmatch(job) or not re.fullmatch(r"[1-9][0-9]{0,8}", run):
        raise invalid(Violation("name", f"got {name[:100]!r}, give operations/JOB/RUN"))
    return job, int(run)


def parse_page(size: int, token: str) -> tuple[int, int | None]:
    """How many to list, and the number before which the page begins.

    Raises:
        Refused: a negative size, or a token that no page had.
    """
    if size < 0:
        raise invalid(Violation("page_size", f"got {size}, at least 0"))
    if token and not re.fullmatch(r"[0-9]{1,18}", token):
        raise invalid(Violation("page_token", f"got {token[:100]!r}, give a next_page_token"))
    return min(size or PAGE, LARGEST_PAGE), int(token) if token else None
