"""Claims: which of the processes that share a study evaluates what.

All of them lie in one attribute of the study, which is read and written only while the study's lock is
held: a process writes what it takes before it evaluates it, and what it took is free again when it says so,
when its process is gone, or, on another machine, when its heartbeat has not been seen to move for
`GRACE_SECONDS` (by the observer's clock: those of two machines need not agree).
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from secateur.model.architecture import Architecture

ATTRIBUTE = "claims"
HEARTBEAT_SECONDS = 15.0
GRACE_SECONDS = 90.0
MAX_CLAIM_FACTOR = 16  # candidates taken at once, for each that a process evaluates at a time


@dataclass(frozen=True)
class Participant:
    """A process at work on a study.

    Attributes:
        host: the machine, told apart also from itself before its last start and from its containers.
        pid: number of the process there.
        started: when it was started, in the kernel's ticks; numbers are given again.
        beat: grows while it lives.
        claims: digests of the architectures it has taken.
    """

    host: str
    pid: int
    started: int
    beat: int = 0
    claims: tuple[str, ...] = ()


class AttrStore(Protocol):
    """Where claims are written."""

    def get_attr(self, key: str) -> Any: ...

    def set_attr(self, key: str, value: Any) -> None: ...


class Claims:
    """The claims on a study, as one of its processes sees them.

    `acquire`, `release`, `deregister` and `heartbeat` are called while the study's lock is held.
    """

    def __init__(self, store: AttrStore) -> None:
        self._store = store
        self._name = uuid.uuid4().hex
        _local_claims[self._name] = self
        self._self = Participant(_host(), os.getpid(), _started(os.getpid()))
        self._beats_seen: dict[str, tuple[int, float]] = {}
        self._last_beat = time.monotonic()
        self._joined = False

    @property
    def expired(self) -> bool:
        """Whether others may have taken over what we hold: this process stood still for too long."""
        return time.monotonic() - self._last_beat > GRACE_SECONDS

    def acquire(self, pending: Sequence[Architecture], at_once: int) -> list[Architecture]:
        """Claim, instead of what we hold, the next of `pending` that nobody else has.

        Args:
            pending: not evaluated yet, in the order in which they share prefixes.
            at_once: candidates that this process evaluates at a time.

        Returns:
            All that is free while nobody else is there, otherwise a share, so that all end together.
        """
        others = self._living()
        held = {digest for participant in others.values() for digest in participant.claims}
        free = [item for item in pending if item.digest not in held]
        mine = free[: _share(len(free), len(others), at_once)]
        self._write(others, tuple(item.digest for item in mine))
        return mine

    def release(self) -> None:
        """Give back what we hold; we stay a participant."""
        self._write(self._living(), ())

    def deregister(self) -> int:
        """Be no participant any more; returns how many others there are."""
        others = self._living()
        if self._joined:
            self._store_participants(others)
            self._joined = False
        return len(others)

    def heartbeat(self) -> None:
        self._self = replace(self._self, beat=self._self.beat + 1)
        self._write(self._living(), self._self.claims)

    def _living(self) -> dict[str, Participant]:
        """The other participants that live."""
        stored = self._store.get_attr(ATTRIBUTE) or {}
        participants = {
            name: Participant(**entry | {"claims": tuple(entry["claims"])}) for name, entry in stored.items()
        }
        return {
            name: participant
            for name, participant in participants.items()
            if name != self._name and self._lives(name, participant)
        }

    def _lives(self, name: str, participant: Participant) -> bool:
        if (participant.host, participant.pid, participant.started) == (
            self._self.host,
            self._self.pid,
            self._self.started,
        ):
            return name in _local_claims
        if participant.host == self._self.host:
            return _started(participant.pid) == participant.started
        beat, last_seen = self._beats_seen.get(name, (-1, 0.0))
        if participant.beat != beat:
            self._beats_seen[name] = (participant.beat, time.monotonic())
            return True
        return time.monotonic() - last_seen <= GRACE_SECONDS

    def _write(self, others: dict[str, Participant], claims: tuple[str, ...]) -> None:
        self._self = replace(self._self, claims=claims)
        self._last_beat = time.monotonic()
        self._joined = True
        self._store_participants({**others, self._name: self._self})

    def _store_participants(self, participants: Mapping[str, Participant]) -> None:
        entries = {
            name: asdict(participant) | {"claims": list(participant.claims)}
            for name, participant in sorted(participants.items())
        }
        self._store.set_attr(ATTRIBUTE, entries)


# Participants of this process: one that was given up without `deregister` is gone though its process lives.
_local_claims: weakref.WeakValueDictionary[str, Claims] = weakref.WeakValueDictionary()


class Heartbeat(threading.Thread):
    """Calls `beat` of its owner every `HEARTBEAT_SECONDS`, as long as there is an owner."""

    def __init__(self, beat: weakref.WeakMethod[Any]) -> None:
        super().__init__(name="secateur-pulse", daemon=True)
        self._beat = beat
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            beat = self._beat()
            if beat is None:
                return
            with suppress(Exception):  # a database that is away for a moment; the next beat tells
                beat()
            del beat

    def stop(self) -> None:
        self._stopped.set()


def _share(free: int, others: int, at_once: int) -> int:
    share = math.ceil(free / (2 * (others + 1))) if others else free
    return min(max(share, at_once), MAX_CLAIM_FACTOR * at_once)


def _host() -> str:
    """This machine since it was started; processes of another container have numbers of their own."""
    boot = pids = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {pids}"


def _started(pid: int) -> int:
    """When a process of this machine was started, in ticks; -1 where there is none or only its remains."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return int(fields[19])
    return -1
