"""The guard's small server, for what observes calls."""

from __future__ import annotations

from tests.serve.guard.conftest import running

__all__ = ["running"]
