"""When to try again what keeps failing, and when to give up."""

from __future__ import annotations

from collections import deque

INITIAL_SECONDS = 1.0
MAX_SECONDS = 30.0
MAX_FAILURES = 5
WINDOW_SECONDS = 600.0


class Backoff:
    """Doubles the wait with every failure within a window of time.

    Args:
        failures: at this many within the window it gives up.
        window: seconds after which a failure no longer counts.
    """

    def __init__(self, failures: int = MAX_FAILURES, window: float = WINDOW_SECONDS) -> None:
        self._most = failures
        self._window = window
        self._failures: deque[float] = deque()

    def failed(self, now: float) -> float | None:
        """Count a failure; return the seconds to wait before trying again, None to give up.

        Args:
            now: a time in seconds that only grows.
        """
        self._failures.append(now)
        while self._failures[0] <= now - self._window:
            self._failures.popleft()
        if len(self._failures) >= self._most:
            return None
        return min(MAX_SECONDS, INITIAL_SECONDS * 2.0 ** (len(self._failures) - 1))
