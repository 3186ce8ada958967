"""Who is computed next: callers take turns, by the tokens they have had.

vLLM computes first what came first, and knows no callers. So requests wait here, and the engine is given no
more than it computes in the next steps. Of the callers who wait, the one that has had fewest tokens is next;
within a caller, the request of highest priority, then the oldest. One that comes back after a while begins
where the others are: nobody saves turns up, and nobody is rid of what he has had by leaving.

- A prompt of more than one step is "long". One at a time is read, in parts that leave half of every step to
  others (`long_part`); short ones pass it by.
- A fifth of all places is for others: a caller takes a place only if four times those left are at least as
  many as it has then. Alone, it gets as many as the options say.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from google.rpc import code_pb2

from secateur.serve.failures import RpcError, unavailable

BUSY_RETRY_SECONDS = 1.0
# Prompt tokens that the engine has beside a long prompt, in steps: one that it computes, one for after that.
STEPS_AHEAD = 2
SHARE = 4


def with_spare(places: int) -> int:
    """Return how many places there are if one caller alone may have so many."""
    return places + -(-places // SHARE)


def long_part(step_tokens: int) -> int:
    """Return how many tokens of a long prompt go into a step that has other requests."""
    return -(-step_tokens // 2)


@dataclass
class _Caller:
    """What one caller has: tokens so far, sequences in the engine and held in all, requests that wait."""

    served: float
    inside: int = 0
    held: int = 0
    prompt_tokens: int = 0
    short: list[tuple[int, int, Turn]] = field(default_factory=list)
    long: list[tuple[int, int, Turn]] = field(default_factory=list)


class Stage(IntEnum):
    """How far a request is: before the engine; its prompt is read; it is answered; the engine is done."""

    WAITING = 0
    READING = 1
    ANSWERING = 2
    DONE = 3


@dataclass(eq=False)
class Turn:
    """A request that waits for the engine or is in it.

    Attributes:
        request_id: the engine's; empty until the engine has it.
        tokens: of its prompt.
        sequences: that it computes at once.
        is_long: its prompt does not fit into one step.
        rank: sequences that its caller had in the engine before it: who has many gives way first.
    """

    tokens: int
    sequences: int
    is_long: bool
    _owner: _Caller
    _admitted: asyncio.Future[None]
    request_id: str = ""
    rank: int = 0
    stage: Stage = Stage.WAITING

    def used(self, tokens: int) -> None:
        """Say that so many tokens were generated."""
        self._owner.served += tokens


class Turns:
    """The queue before one engine; it belongs to an event loop.

    Args:
        sequences: most that one caller may have computed at once.
        step_tokens: most tokens in a step.
        held: most sequences that one caller may have waiting and computed.
        held_tokens: most prompt tokens of one caller that are not computed yet; None = any number.
    """

    def __init__(self, sequences: int, step_tokens: int, held: int, held_tokens: int | None = None) -> None:
        self._sequences = sequences
        self._places = with_spare(sequences)
        self._step_tokens = step_tokens
        self._held_places = with_spare(held)
        self._held_tokens = held_tokens
        self._callers: dict[str, _Caller] = {}
        self._inside: set[Turn] = set()
        self._order = itertools.count()
        self._virtual_time = 0.0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait here."""
        return sum(len(one.short) + len(one.long) for one in self._callers.values())

    @asynccontextmanager
    async def turn(
        self, caller: str, tokens: int, sequences: int = 1, priority: int = 0
    ) -> AsyncIterator[Turn]:
        """Wait for a turn; it lasts as long as the context.

        Args:
            caller: whose request it is.
            tokens: of its prompt.
            sequences: that it computes at once; more than a caller may have count as that many.
            priority: higher goes first among the caller's own.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, if the caller has too much waiting; UNAVAILABLE after `close`.
        """
        owner = self._callers.setdefault(caller, _Caller(self._virtual_time))
        admitted = asyncio.get_running_loop().create_future()
        sequences = min(sequences, self._sequences)
        turn = Turn(tokens, sequences, tokens > self._step_tokens, owner, admitted)
        self._require_room(owner, turn)
        owner.held += sequences
        owner.prompt_tokens += tokens
        queue = owner.long if turn.is_long else owner.short
        heapq.heappush(queue, (-priority, next(self._order), turn))
        try:
            self._admit()
            await admitted
            yield turn
        finally:
            self._leave(turn, queue)

    def look(self, stage_of: Callable[[str], Stage]) -> None:
        """Find out how far requests are, by their id in the engine, and let others in."""
        for turn in tuple(self._inside):
            if turn.request_id:
                self._advance(turn, stage_of(turn.request_id))
        self._admit()

    def close(self) -> None:
        """Refuse those who wait, and all who come."""
        self._closed = True
        refusal = unavailable("SHUTTING_DOWN", "the request was cut off")
        for owner in self._callers.values():
            for _, _, turn in (*owner.short, *owner.long):
                if not turn._admitted.done():
                    turn._admitted.set_exception(refusal)

    def _require_room(self, owner: _Caller, turn: Turn) -> None:
        if self._closed:
            raise unavailable("SHUTTING_DOWN", "the request was cut off")
        held = sum(one.held for one in self._callers.values())
        if not _has_place(owner.held, turn.sequences, self._held_places - held):
            raise _full(f"{held} requests are held")
        if self._held_tokens is not None and owner.prompt_tokens >= self._held_tokens:
            raise _full(f"{owner.prompt_tokens} prompt tokens wait")

    def _admit(self) -> None:
        """Let in whom there is room for."""
        while not self._closed and (found := self._next()) is not None:
            owner, queue = found
            _, _, turn = heapq.heappop(queue)
            if turn._admitted.done():  # cancelled; its task just does not know yet
                continue
            turn.rank, turn.stage = owner.inside, Stage.READING
            owner.inside += turn.sequences
            self._virtual_time = max(self._virtual_time, owner.served)
            owner.served += turn.tokens
            self._inside.add(turn)
            turn._admitted.set_result(None)

    def _next(self) -> tuple[_Caller, list[tuple[int, int, Turn]]] | None:
        free = self._places - sum(one.inside for one in self._callers.values())
        reading = [turn for turn in self._inside if turn.stage is Stage.READING]
        short_tokens = sum(turn.tokens for turn in reading if not turn.is_long)
        is_long_free = not any(turn.is_long for turn in reading)
        waiting = [one for one in self._callers.values() if one.short or one.long]
        for owner in sorted(waiting, key=lambda one: one.served):
            heads = [queue[0] + (queue,) for queue in (owner.short, owner.long) if queue]
            for _, _, turn, queue in sorted(heads, key=lambda head: head[:2]):
                has_step = (
                    is_long_free
                    if turn.is_long
                    else not short_tokens or short_tokens + turn.tokens <= STEPS_AHEAD * self._step_tokens
                )
                if has_step and _has_place(owner.inside, turn.sequences, free):
                    return owner, queue
        return None

    def _advance(self, turn: Turn, stage: Stage) -> None:
        before, turn.stage = turn.stage, max(turn.stage, stage)
        if before < Stage.ANSWERING <= turn.stage:
            turn._owner.prompt_tokens -= turn.tokens
        if Stage.WAITING < before < Stage.DONE is turn.stage:
            turn._owner.inside -= turn.sequences
            self._inside.discard(turn)

    def _leave(self, turn: Turn, queue: list[tuple[int, int, Turn]]) -> None:
        if turn.stage is Stage.WAITING:
            queue[:] = [one for one in queue if one[2] is not turn]
            heapq.heapify(queue)
        self._advance(turn, Stage.DONE)
        turn._owner.held -= turn.sequences
        self._admit()
        self._forget()

    def _forget(self) -> None:
        """Forget callers who have nothing here, and had no more than the others."""
        idle = not any(one.held for one in self._callers.values())
        self._callers = {
            name: one
            for name, one in self._callers.items()
            if one.held or not (idle or one.served <= self._virtual_time)
        }


def _has_place(has: int, more: int, free: int) -> bool:
    """True if one who has so many places may take more of those that are free; the first is always given."""
    return free > 0 and (not has or has + more <= SHARE * (free - more))


def _full(what: str) -> RpcError:
    message = f"{what}: come back later"
    return RpcError(code_pb2.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry_seconds=BUSY_RETRY_SECONDS)
