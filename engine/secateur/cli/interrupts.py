"""Ctrl-C: one line and exit status 130, also while modules are imported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130

_process_is_ours = False


def enable_immediate_exit() -> None:
    """Let `exit_on_interrupt_during_import` end this process: it runs the command line and nothing else."""
    global _process_is_ours
    _process_is_ours = True


@contextmanager
def exit_on_interrupt_during_import() -> Iterator[None]:
    """Around imports that take long: Ctrl-C ends the process there and then.

    A KeyboardInterrupt raised while a native module is initialised is lost, or comes out as another error
    far away: transformers then says that a module is missing. There is nothing to clean up yet.
    """
    usable = _process_is_ours and threading.current_thread() is threading.main_thread()
    if not usable or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def say_interrupted() -> None:
    """Print the one line on stderr, whatever state Python's own streams are in."""
    with suppress(OSError):
        os.write(2, b"interrupted\n")


def _leave(number: int, frame: FrameType | None) -> None:
    say_interrupted()
    os._exit(INTERRUPTED)
