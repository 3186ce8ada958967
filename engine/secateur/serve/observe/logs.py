"""Log lines for people or, as JSON, for programs; each with the id of the call it belongs to."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from secateur.serve.guard.call import CallContext, current_call

LOGGER = "secateur"
# What every record has, and what vLLM adds to every record of the process, says nothing here.
OMITTED_ATTRS = (*RESERVED_ATTRS, "vllm_process_name")
call_log = logging.getLogger("secateur.calls")


class _TextFormatter(logging.Formatter):
    """The message, after the level if it is bad news, and before the request's id if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        first, newline, rest = text.partition("\n")
        if record.levelno >= logging.WARNING:
            first = f"{record.levelname.lower()}: {first}"
        call = current_call()
        if call is not None:
            first = f"{first} [{call.request_id}]"
        return first + newline + rest


class _JsonFormatter(JsonFormatter):
    """One JSON object: time, level, logger, message, what is known of the call, and the traceback."""

    def add_fields(self, log_data: dict, record: logging.LogRecord, message_dict: dict) -> None:
        moment = datetime.fromtimestamp(record.created, UTC)
        log_data["time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        call = current_call()
        if call is not None:
            log_data["request_id"] = call.request_id
            log_data["method"] = call.method
            log_data["caller"] = call.caller.name
        super().add_fields(log_data, record, message_dict)


@contextmanager
def logging_to(stream: IO[str], *, as_json: bool, with_calls: bool) -> Iterator[None]:
    """Send there what the server logs from INFO on, and what libraries do from WARNING on.

    Args:
        stream: where to.
        as_json: JSON objects instead of text.
        with_calls: also a line for every call.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _JsonFormatter("%(message)s", reserved_attrs=OMITTED_ATTRS)
        if as_json
        else _TextFormatter("%(message)s")
    )
    root, ours = logging.getLogger(), logging.getLogger(LOGGER)
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    call_log.setLevel(logging.INFO if with_calls else logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(logging.NOTSET)
        call_log.setLevel(logging.NOTSET)


@contextmanager
def log_call(call: CallContext) -> Iterator[None]:
    """Observe a call: one line when it ends."""
    started = time.perf_counter()
    try:
        yield
    finally:
        milliseconds = round(1e3 * (time.perf_counter() - started), 1)
        call_log.info(
            "%s %s %s %g ms%s",
            call.caller.name,
            call.method,
            call.code,
            milliseconds,
            f": {call.failure}" if call.failure else "",
            extra={"code": call.code, "milliseconds": milliseconds, "peer": call.peer},
        )
