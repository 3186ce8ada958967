"""Pages of lists, the newest first: page tokens are numbers of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from secateur.serve.failures import FieldViolation, invalid_argument

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000

Row = TypeVar("Row")


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


def next_page_token(rows: Sequence[Row], size: int, number: Callable[[Row], int]) -> str:
    """The token of the page after the first `size` rows; empty if there are no more."""
    return str(number(rows[size - 1])) if len(rows) > size else ""
