"""How OpenMP's threads wait for work."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

_VARIABLE = "OMP_WAIT_POLICY"


@contextmanager
def passive_waiting(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Around what loads torch: OpenMP's threads will sleep between two parallel pieces of work.

    By default they spin for a while. Beside another busy process those that spin take the time of those that
    work. What the user says in the environment holds: libgomp, which torch brings, lets ``GOMP_SPINCOUNT``
    decide before ``OMP_WAIT_POLICY``. It reads both when it is loaded. Afterwards the variable is gone
    again: vLLM's engines, started later, wait as they do under `secateur serve`.
    """
    if _VARIABLE in environ:
        yield
        return
    environ[_VARIABLE] = "passive"
    try:
        yield
    finally:
        del environ[_VARIABLE]
