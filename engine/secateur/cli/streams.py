"""The standard streams of the process: all three are there; what stderr cannot take stops no work."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


def prepare_standard_streams() -> None:
    """Open those that the caller closed (``>&-``) on nothing, and let writing to stderr never fail.

    Python has None for a stream that is closed, and the next file that is opened would get its number.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, descriptor)  # inheritable, unlike what was opened
            if opened != descriptor:
                os.close(opened)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = _Diagnostics(sys.stderr.encoding if sys.stderr else "utf-8")


def quieten_engine() -> None:
    """Let an engine that was told to log errors alone (`set_engine_environment`) do so from its start.

    It is spawned, so it imports this package first; then vLLM, which warns about Triton before it has read
    its own logging level.
    """
    if os.environ.get("VLLM_LOGGING_LEVEL") == "ERROR":
        import logging

        logging.getLogger("vllm").setLevel(logging.ERROR)


class _Diagnostics(io.TextIOWrapper):
    """Stderr; where nobody reads it any more, or the disk is full, the work goes on.

    Unbuffered: what could not be written would stay in a buffer.
    """

    def __init__(self, encoding: str) -> None:
        unbuffered: Any = io.FileIO(2, "w", closefd=False)
        super().__init__(unbuffered, encoding=encoding, errors="backslashreplace", write_through=True)

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            if error.errno == errno.EPIPE:  # a child that inherits it would die of it
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
            return len(text)
