"""The command line, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def secateur(*arguments: str) -> str:
    """Run `secateur ARGUMENTS --json` and return the document it printed; its progress goes to our stderr.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = "import sys; from secateur.cli.app import main; sys.exit(main())"
    finished = subprocess.run(
        [sys.executable, "-c", command, *arguments, "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return finished.stdout
