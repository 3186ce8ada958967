"""Token ids of text and conversations, computed in a few processes, with fair shares for callers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from array import array
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from secateur.errors import SecateurError
from secateur.serve.text.encoding_process import (
    CHAT,
    HEADER,
    NO_MEMORY,
    PLAIN_TEXT,
    REFUSED,
    RENDERED,
    TEXT,
)

MEMORY_BYTES = 512 * 2**20
START_SECONDS = 60.0
# A process that waits for the processor uses up none of its time; beyond this it is ended all the same.
WALL_FACTOR = 10
# What nobody waits for any longer may go on for so long: a new process costs more.
LEFT_SECONDS = 0.3
# A full answer of a prompt of a million tokens.
MAX_ANSWER_BYTES = 64 * 2**20


class TextRefused(SecateurError):
    """A text or conversation that cannot be encoded: what the tokeniser, or the template, does with it."""


class _ProcessEnded(Exception):
    """A process is not there any more."""


class _NobodyWaits(Exception):
    """The caller left, and the process was still busy."""


@dataclass(frozen=True)
class TokenizerDefinition:
    """All that decides how text becomes tokens.

    Attributes:
        tokenizer: JSON of the tokenizers library; None if the model's tokeniser is none of that library:
            then conversations are laid out only.
        chat_template: source; empty = none.
        special_tokens: what templates know by name.
        split_special_tokens: special tokens written in a text are text.
    """

    tokenizer: str | None
    chat_template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    split_special_tokens: bool = False


@dataclass(eq=False)
class _Request:
    kind: int
    body: bytes
    caller: str
    answer: asyncio.Future[tuple[int, bytes]]


class FairQueue:
    """Requests that wait: callers take turns, and none has all processes.

    Args:
        share: most requests of one caller that run at the same time.
    """

    def __init__(self, share: int) -> None:
        self._share = share
        self._waiting: OrderedDict[str, deque[_Request]] = OrderedDict()
        self._running: Counter[str] = Counter()

    def put(self, request: _Request) -> None:
        self._waiting.setdefault(request.caller, deque()).append(request)

    def take(self) -> _Request | None:
        """Return whose turn it is; None if nobody may run now. What nobody waits for is dropped."""
        for caller in list(self._waiting):
            requests = self._waiting[caller]
            while requests and requests[0].answer.done():
                requests.popleft()
            if not requests:
                del self._waiting[caller]
            elif self._running[caller] < self._share:
                request = requests.popleft()
                self._running[caller] += 1
                self._waiting.move_to_end(caller)
                return request
        return None

    def done(self, request: _Request) -> None:
        """Count a request out that was taken."""
        self._running[request.caller] -= 1
        if not self._running[request.caller]:
            del self._running[request.caller]


class TextEncoder:
    """Encodes for one model. Processes are started when they are needed, and again when they were ended.

    Args:
        definition: the model's.
        processes: most of them.
        seconds: of processor time that a request may take.
    """

    def __init__(self, definition: TokenizerDefinition, processes: int, seconds: float) -> None:
        self.definition = definition
        self._seconds = seconds
        self._idle = [_EncodingProcess(definition, seconds) for _ in range(processes)]
        self._queue = FairQueue(max(1, processes - 1))
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def text(self, text: str, *, special: bool, caller: str = "") -> list[int]:
        """Return a text's token ids, with the tokeniser's special tokens if ``special``.

        Raises:
            TextRefused: it takes too much time or memory.
        """
        answer = await self._ask(TEXT if special else PLAIN_TEXT, text.encode(), caller)
        return _ids(answer)

    async def chat(self, messages: Sequence[Mapping[str, str]], caller: str = "") -> list[int] | str:
        """Return the token ids of a conversation, ready to be answered; its text if there is no tokeniser.

        Raises:
            TextRefused: the template does not take these messages, or takes too much time or memory.
        """
        return _ids_or_text(await self._ask(CHAT, json.dumps(messages).encode(), caller))

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._idle:
            await process.end()

    async def _ask(self, kind: int, body: bytes, caller: str) -> tuple[int, bytes]:
        request = _Request(kind, body, caller, asyncio.get_running_loop().create_future())
        self._queue.put(request)
        self._dispatch()
        return await request.answer

    def _dispatch(self) -> None:
        while self._idle and not self._closed and (request := self._queue.take()) is not None:
            task = asyncio.create_task(self._run(self._idle.pop(), request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, process: _EncodingProcess, request: _Request) -> None:
        try:
            answer = await process.answer(request)
            if not request.answer.done():
                request.answer.set_result(answer)
        except Exception as error:
            if not request.answer.done():
                request.answer.set_exception(error)
        finally:
            request.answer.cancel()
            self._queue.done(request)
            # The last in is the first out: one process does all while nobody has to wait.
            self._idle.append(process)
            self._dispatch()


class _EncodingProcess:
    """One process, or the place of one."""

    def __init__(self, definition: TokenizerDefinition, seconds: float) -> None:
        self._definition = definition
        self._seconds = seconds
        self._child: Process | None = None

    async def answer(self, request: _Request) -> tuple[int, bytes]:
        """Return the process's answer.

        Raises:
            TextRefused: it is no answer.
        """
        whole = False
        try:
            limit = WALL_FACTOR * self._seconds + (START_SECONDS if self._child is None else 0)
            async with asyncio.timeout(limit):
                child = self._child or await self._start()
                kind, body = await _waited_for(request, _exchange(child, request.kind, request.body))
            whole = kind != NO_MEMORY  # which may have left anything half done
        except (TimeoutError, _ProcessEnded) as ended:
            raise TextRefused(await self._cause(ended)) from ended
        finally:
            if not whole:
                await self.end()
        if kind == NO_MEMORY:
            raise TextRefused(_too_much_memory())
        if kind == REFUSED:
            what = "them" if request.kind == CHAT else "it"
            raise TextRefused(f"refuses {what}: {body.decode()}")
        return kind, body

    async def end(self) -> None:
        """Kill the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _start(self) -> Process:
        definition = self._definition
        given = {
            **vars(definition),
            "special_tokens": dict(definition.special_tokens),
            "seconds": self._seconds,
        }
        command = (sys.executable, "-m", "secateur.serve.text.encoding_process", str(MEMORY_BYTES))
        one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        self._child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={**os.environ, **one_thread}
        )
        _send(self._child, 0, json.dumps(given).encode())
        return self._child

    async def _cause(self, ended: Exception) -> str:
        child = self._child
        if isinstance(ended, _ProcessEnded) and child is not None and await child.wait() != -signal.SIGPROF:
            return _too_much_memory()
        return f"takes more than {self._seconds:g} s of processor time"


async def _waited_for(request: _Request, work: Any) -> tuple[int, bytes]:
    """Await work for as long as somebody waits for its answer, and a little longer."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, request.answer), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait((task,), timeout=LEFT_SECONDS)
        if not task.done():
            raise _NobodyWaits
        return task.result()
    finally:
        task.cancel()


async def _exchange(child: Process, kind: int, body: bytes) -> tuple[int, bytes]:
    assert child.stdin is not None and child.stdout is not None
    try:
        _send(child, kind, body)
        await child.stdin.drain()
        length, kind = HEADER.unpack(await child.stdout.readexactly(HEADER.size))
        if length > MAX_ANSWER_BYTES:
            raise _ProcessEnded
        return kind, await child.stdout.readexactly(length)
    except (OSError, EOFError) as error:
        raise _ProcessEnded from error


def _send(child: Process, kind: int, body: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(HEADER.pack(len(body), kind) + body)


def _too_much_memory() -> str:
    return f"takes more than {MEMORY_BYTES // 2**20} MiB of memory"


def _ids_or_text(answer: tuple[int, bytes]) -> list[int] | str:
    kind, body = answer
    return body.decode() if kind == RENDERED else _ids(answer)


def _ids(answer: tuple[int, bytes]) -> list[int]:
    ids = array("I")
    ids.frombytes(answer[1])
    return ids.tolist()
