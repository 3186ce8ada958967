"""A prune through the command line, killed in mid-search and started again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

EVALUATIONS = 16
KILL_AFTER = 9  # recorded architectures
OPTIONS = {
    "keep": 0.7,
    "corpus": "pydoc",
    "evaluations": EVALUATIONS,
    "quantum": 32,
    "window": 64,
    "calibration-tokens": 2048,
    "search-windows": 4,
}


def killed_and_resumed_is_the_same(dense: Path, folder: Path) -> bool:
    """Whether the weights are those of a prune that was not killed, to the byte."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole, killed = folder / "whole", folder / "killed"
    for _ in _running(dense, whole):
        pass
    journal = killed.with_suffix(".study") / "study.journal"
    for process in _running(dense, killed):
        if journal.is_file() and journal.read_text().count('"origin"') >= KILL_AFTER:
            os.kill(process, signal.SIGKILL)
    if killed.exists():
        raise AssertionError("it ended before it could be killed")
    for _ in _running(dense, killed):
        pass
    return (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()


def _running(dense: Path, out: Path) -> Iterator[int]:
    """The id of a process that prunes, until it ends. It is a fork: nothing is imported again."""
    process = multiprocessing.get_context("fork").Process(target=_prune, args=(dense, out))
    process.start()
    while process.is_alive():
        assert process.pid is not None
        yield process.pid
        time.sleep(0.002)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise AssertionError(f"prune ended with status {process.exitcode}")


def _prune(dense: Path, out: Path) -> None:
    from secateur.cli.app import main

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
    main(["prune", str(dense), "--out", str(out), *options, "--json"])
