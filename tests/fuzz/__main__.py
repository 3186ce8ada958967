"""Fuzz one target: ``python -m tests.fuzz TARGET --inputs 100000``; stop it and start it again as you like.

Prints each input that ends in anything but an answer, with its number; `replay` of that number repeats it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time

from tests.fuzz.replay import GIGABYTE, failure_of, limit_memory, memory_limit
from tests.fuzz.targets import FOLDER, TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input: to resume")
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    for seed in target.valid:
        target.parse(seed)  # valid inputs are read without complaint
    limit_memory(memory_limit() + GIGABYTE)
    started = reported = time.monotonic()
    failures: dict[str, int] = {}
    try:
        for number in range(arguments.first, arguments.inputs):
            if (failure := failure_of(target, target.input(number))) is not None:
                kind = failure[:90]
                failures[kind] = failures.get(kind, 0) + 1
                if failures[kind] <= 3:
                    print(f"input {number}: {failure}", flush=True)
            if time.monotonic() - reported > 20:
                reported = time.monotonic()
                done = number + 1 - arguments.first
                left = (reported - started) / done * (arguments.inputs - number - 1)
                print(
                    f"{arguments.target}: {number + 1:,} of {arguments.inputs:,}, {left:.0f} s left",
                    flush=True,
                )
    except KeyboardInterrupt:
        print(f"stopped; go on with --first {number}")
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    seconds = time.monotonic() - started
    found = f"{sum(failures.values())} failures, peak {peak} MB"
    print(f"{arguments.target}: {number + 1:,} inputs in {seconds:.0f} s, {found}")


if __name__ == "__main__":
    main()
