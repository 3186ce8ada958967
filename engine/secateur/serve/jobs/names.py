"""Resource names, page tokens and sizes as clients give them."""

from __future__ import annotations

import re

from secateur.serve.failures import FieldViolation, invalid_argument
from secateur.serve.jobs.wire import JOBS, OPERATIONS

ID_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,62}")
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000


def parse_job(name: str, field: str = "name") -> str:
    """The id in ``pruneJobs/ID``.

    Raises:
        RpcError: not of that form.
    """
    collection, _, job = name.partition("/")
    if collection != JOBS or not ID_PATTERN.fullmatch(job):
        raise invalid_argument(FieldViolation(field, f"got {name[:100]!r}, give pruneJobs/JOB"))
    return job


def parse_operation(name: str) -> tuple[str, int]:
    """Job and run in ``operations/JOB/RUN``.

    Raises:
        RpcError: not of that form.
    """
    collection, _, rest = name.partition("/")
    job, _, run = rest.partition("/")
    if collection != OPERATIONS or not ID_PATTERN.fullmatch(job) or not re.fullmatch(r"[1-9][0-9]{0,8}", run):
        raise invalid_argument(FieldViolation("name", f"got {name[:100]!r}, give operations/JOB/RUN"))
    return job, int(run)


def parse_page(size: int, token: str) -> tuple[int, int | None]:
    """How many to list, and the number before which the page begins.

    Raises:
        RpcError: a negative size, or a token that no page had.
    """
    if size < 0:
        raise invalid_argument(FieldViolation("page_size", f"got {size}, at least 0"))
    if token and not re.fullmatch(r"[0-9]{1,18}", token):
        raise invalid_argument(FieldViolation("page_token", f"got {token[:100]!r}, give a next_page_token"))
    return min(size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), int(token) if token else None
