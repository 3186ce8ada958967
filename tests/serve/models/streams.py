"""Clients that stream answers from a server, one after the other, and note every one that is not whole."""

from __future__ import annotations

import threading
import time
from collections import Counter

from secateur.client import Client, RetryPolicy

TOKENS = 40
STREAMS = 4


class Streams:
    """Clients that ask one question after the other, each once."""

    def __init__(self, address: str, model: str, streams: int = STREAMS) -> None:
        self.address, self.model = address, model
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(streams)]

    def __enter__(self) -> Streams:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def _ask(self) -> None:
        with Client(self.address, 60, retries=RetryPolicy(attempts=1)) as client:
            while not self.stopped.is_set():
                try:
                    events = list(
                        client.generate(self.model, "Once upon a time", max_tokens=TOKENS, ignore_eos=True)
                    )
                except Exception as error:
                    self.failures.append(str(error))
                    continue
                versions = {event.response.model_version for event in events}
                tokens = sum(len(event.token_ids) for event in events)
                if len(versions) != 1 or tokens != TOKENS:
                    self.failures.append(f"{tokens} tokens of versions {versions}")
                self.answers[versions.pop()] += 1

    def answered(self, version: str, more: int = 2 * STREAMS) -> None:
        """Wait until a version has answered some more."""
        before, deadline = self.answers[version], time.monotonic() + 60
        while self.answers[version] < before + more:
            assert time.monotonic() < deadline, (self.answers, self.failures)
            time.sleep(0.02)
