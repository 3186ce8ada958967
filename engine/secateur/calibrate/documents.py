"""Files of text as documents: plain text, JSON, JSON Lines, Parquet and Arrow, each also compressed.

A record gives a text or a chat. How a chat becomes text is the model's matter (`chat_text`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from secateur.errors import BadInput

TEXT_KEYS = ("text", "content")
READ_KEYS = (
    "text, content, messages, conversations, prompt with completion, and instruction (with input) with output"
)
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_SIDE_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")  # beside the data of datasets
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        messages: each with ``role`` and ``content``, and whatever else the model's template reads.
        tools: descriptions of tools, if the record has some.
        record: which record of which file it was, for messages to the user.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None
    record: str


Document = str | Chat


def read_documents(file: Path) -> Iterator[Document]:
    """The documents of a file, in their order, empty ones among them.

    Its name says what it is: ``.jsonl``, ``.ndjson``, ``.json`` (a list of records), ``.parquet``,
    ``.arrow``, with ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` at its end if it is compressed; all else is one
    document of text.

    Raises:
        BadInput: it cannot be read, or a record of it.
    """
    try:
        with _OPENERS.get(file.suffix, open)(file, "rb") as stream:
            yield from _READERS.get(_format(file), _text)(stream, file)
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise BadInput("corpus", file, f"cannot be read: {reason}") from error


def is_text_file(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is text by its name, and not hidden or a note of the datasets library."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.name not in _SIDE_FILES and _format(file) in FORMATS and file.is_file()


def chat_text(chat: Chat, tokenizer: Any, corpus: str) -> str:
    """The text of a chat in the model's own template.

    Args:
        tokenizer: the model's; without one, what was said is the text, with an empty line between turns.

    Raises:
        BadInput: the model has no template, or it refuses the chat.
    """
    if tokenizer is None:
        return _checked_text("\n\n".join(each["content"] for each in chat.messages), corpus, chat.record)
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput("corpus", corpus, f"{chat.record} is a chat, and the model has no chat template")
    try:
        text = tokenizer.apply_chat_template(list(chat.messages), tools=chat.tools, tokenize=False)
    except Exception as error:  # a template is a program; it may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(
            "corpus", corpus, f"{chat.record}: the model's chat template refuses it: {reason}"
        ) from error
    return _checked_text(text, corpus, chat.record)


def _format(file: Path) -> str:
    """The end of the name that says what is in a file, in lower case and without that of its compression."""
    return (Path(file.stem).suffix if file.suffix in _OPENERS else file.suffix).lower()


def _open_zstd(file: Path, mode: str) -> IO[bytes]:
    import pyarrow

    with pyarrow.input_stream(str(file), compression="zstd") as stream:
        return io.BytesIO(stream.read())  # it can neither seek nor read a line


_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}


def _decoded(data: bytes, file: Path) -> str:
    """Text without its byte order mark; UTF-16 if a mark says so, else UTF-8."""
    encoding = "utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput("corpus", file, f"not UTF-8 text ({error.reason} at byte {error.start})") from error


def _text(stream: IO[bytes], file: Path) -> Iterator[Document]:
    # Line ends become what they are in memory, as `Path.read_text` does.
    yield _decoded(stream.read(), file).replace("\r\n", "\n").replace("\r", "\n")


def _json(stream: IO[bytes], file: Path) -> Iterator[Document]:
    records = _parsed(_decoded(stream.read(), file), file, "the file")
    if not isinstance(records, list):
        raise BadInput(
            "corpus", file, "a list of records is read; give one record a line as .jsonl otherwise"
        )
    for number, record in enumerate(records, 1):
        yield _document(record, file, f"record {number}")


def _json_lines(stream: IO[bytes], file: Path) -> Iterator[Document]:
    for number, line in enumerate(stream, 1):
        if line.strip(b"\xef\xbb\xbf \t\r\n"):
            where = f"line {number}"
            yield _document(_parsed(_decoded(line, file), file, where), file, where)


def _parquet(stream: IO[bytes], file: Path) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        source = pyarrow.parquet.ParquetFile(pyarrow.PythonFile(stream, mode="r"))
        yield from _batches(source.iter_batches(batch_size=1024), file)
    except pyarrow.ArrowException as error:
        raise BadInput("corpus", file, f"not a Parquet file: {' '.join(str(error).split())[:200]}") from error


def _arrow(stream: IO[bytes], file: Path) -> Iterator[Document]:
    import pyarrow

    try:
        try:
            batches = iter(pyarrow.ipc.open_stream(stream))
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(pyarrow.BufferReader(_rest(stream))).read_all()
            batches = iter(table.to_batches())
        yield from _batches(batches, file)
    except pyarrow.ArrowException as error:
        raise BadInput("corpus", file, f"not an Arrow file: {' '.join(str(error).split())[:200]}") from error


def _rest(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read()


def _batches(batches: Iterator[Any], file: Path) -> Iterator[Document]:
    number = 0
    for batch in batches:
        for record in batch.to_pylist():
            number += 1
            yield _document(record, file, f"row {number}")


_READERS: dict[str, Callable[[IO[bytes], Path], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
FORMATS = (".txt", *_READERS)


def _parsed(text: str, file: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = type(error).__name__
        if isinstance(error, json.JSONDecodeError):
            line = f"line {error.lineno} " if error.lineno > 1 else ""
            reason = f"{error.msg.removesuffix(' at')}, {line}column {error.colno}"
        raise BadInput("corpus", file, f"{where} is not JSON: {reason}") from error


def _document(record: Any, file: Path, where: str) -> Document:
    if isinstance(record, str):
        return _checked_text(record, file, where)
    if not isinstance(record, Mapping):
        raise BadInput(
            "corpus", file, f"{where} is no record but {type(record).__name__}; keys read are {READ_KEYS}"
        )
    try:
        messages = _messages(record)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(
            "corpus", file, f"{where} has messages that are no list of role and content"
        ) from error
    if messages is not None:
        return Chat(messages, record.get("tools") or None, where)
    for key in TEXT_KEYS:
        if isinstance(record.get(key), str):
            return _checked_text(record[key], file, where)
        if key in record and record[key] is None:
            return ""
    keys = ", ".join(map(str, list(record)[:8])) or "none"
    raise BadInput("corpus", file, f"{where} has the keys {keys}; read are {READ_KEYS}")


def _messages(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The chat of a record; None where it is none."""
    if isinstance(record.get("messages"), list):
        return [_message(message, message["role"], message.get("content")) for message in record["messages"]]
    if isinstance(record.get("conversations"), list):
        turns = record["conversations"]
        return [
            _message({}, _SHAREGPT_ROLES.get(turn["from"], turn["from"]), turn["value"]) for turn in turns
        ]
    for question_key, answer_key in (("prompt", "completion"), ("instruction", "output")):
        question, answer = record.get(question_key), record.get(answer_key)
        if isinstance(question, list) and isinstance(answer, list):  # chats themselves, as TRL has them
            return [_message(turn, turn["role"], turn.get("content")) for turn in (*question, *answer)]
        if isinstance(question, str) and isinstance(answer, str):
            context = record.get("input") if question_key == "instruction" else None
            asked = f"{question}\n\n{context}" if context else question
            return [_message({}, "user", asked), _message({}, "assistant", answer)]
    return None


def _message(more: Mapping[str, Any], role: Any, content: Any) -> dict[str, Any]:
    """A message; of content in parts the texts, joined. Only one that calls tools may have none."""
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
    calls = more.get("tool_calls") or more.get("function_call")
    if not isinstance(role, str) or not (isinstance(content, str) or (content is None and calls)):
        raise TypeError
    present = {key: value for key, value in more.items() if value is not None}
    return {**present, "role": role, "content": content or ""}


def _checked_text(text: str, corpus: object, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = (
            f"{where} has half a character (\\u{ord(text[error.start]):04x}), which no file of text can hold"
        )
        raise BadInput("corpus", corpus, reason) from error
    return text
