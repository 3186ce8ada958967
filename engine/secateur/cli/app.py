"""Where the `secateur` command starts. Imports next to nothing: Ctrl-C is met from here on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from secateur.cli.interrupts import (
    INTERRUPTED,
    enable_immediate_exit,
    exit_on_interrupt_during_import,
    say_interrupted,
)
from secateur.cli.streams import prepare_standard_streams, quieten_engine

quieten_engine()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    try:
        prepare_standard_streams()
        enable_immediate_exit()
        with exit_on_interrupt_during_import():
            from secateur.cli.commands import run
        status = run(arguments)
    except KeyboardInterrupt:
        say_interrupted()
        status = INTERRUPTED
    sys.exit(status)


if __name__ == "__main__":
    main()
