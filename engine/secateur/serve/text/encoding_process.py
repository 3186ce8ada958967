"""The process that lays out conversations and tokenises: templates and tokenisers are text of others too.

It reads frames from stdin and answers each on stdout; a frame is four bytes of length, one of kind, a body.
The first frame holds the tokeniser. The kernel ends the process when a request takes too much processor
time (SIGPROF), and refuses it memory beyond its limit. It imports little, so that it is soon there again.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

HEADER = struct.Struct(">IB")
TEXT, PLAIN_TEXT, CHAT = b"txc"  # kinds of requests: text with and without special tokens, a conversation
TOKENS, RENDERED, REFUSED, NO_MEMORY = b"irem"  # kinds of answers


class _Generation(Extension):
    """``{% generation %}`` marks what a model said, for training: here it only stands for its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def chat_renderer(template: str, special_tokens: dict[str, str]) -> Callable[[Sequence[Any]], str]:
    """Return what lays messages out, as transformers does (``render_jinja_template``, 5.16 to 5.20).

    Importing it from there takes two seconds, which every new process would need.
    """

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    compiled: Any = None

    def render(messages: Sequence[Any]) -> str:
        nonlocal compiled  # compiled by the first request, under its limits
        compiled = compiled or environment.from_string(template)
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        return compiled.render(**{**special_tokens, **given})

    return render


class _Encoder(NamedTuple):
    tokenizer: Tokenizer | None
    render: Callable[[Sequence[Any]], str]

    def answer(self, kind: int, body: bytes) -> tuple[int, bytes]:
        text = self.render(json.loads(body)) if kind == CHAT else body.decode()
        if self.tokenizer is None:
            return RENDERED, text.encode()
        return TOKENS, array("I", self.tokenizer.encode(text, add_special_tokens=kind == TEXT).ids).tobytes()


def _read(stream: BinaryIO) -> tuple[int, bytes]:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        sys.exit()  # the server is gone
    length, kind = HEADER.unpack(header)
    return kind, stream.read(length)


def _limit_memory(most_bytes: int) -> None:
    """Allow that much more than there is now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + most_bytes, now + most_bytes))


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when it ends
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given = json.loads(_read(sys.stdin.buffer)[1])
    tokenizer = None if given["tokenizer"] is None else Tokenizer.from_str(given["tokenizer"])
    if tokenizer is not None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = given["split_special_tokens"]
    encoder = _Encoder(tokenizer, chat_renderer(given["chat_template"], given["special_tokens"]))
    seconds = given["seconds"]
    del given
    _limit_memory(int(sys.argv[1]))
    while True:
        kind, body = _read(sys.stdin.buffer)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            kind, body = encoder.answer(kind, body)
        except MemoryError:
            kind, body = NO_MEMORY, b""
        except Exception as error:  # templates raise whatever they like
            line = " ".join(str(error).split()) or type(error).__name__
            kind, body = REFUSED, line[:400].encode(errors="replace")
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(HEADER.pack(len(body), kind) + body)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
