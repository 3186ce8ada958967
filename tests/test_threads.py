"""What prunes and evaluates has OpenMP's threads sleep while they wait; what the user says holds.

Proven by libgomp itself: with OMP_DISPLAY_ENV it prints the policy that it took when it was loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import secateur
from secateur.threads import passive_waiting

# Without site (-S: a .pth of an environment may load libgomp by itself) an editable install is not found.
PATH = [str(Path(secateur.__file__).parents[1]), *sys.path]

CODE = """
import os
from secateur.threads import passive_waiting
before = dict(os.environ)
with passive_waiting():
    import torch
assert dict(os.environ) == before
"""


@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [
        ({}, "PASSIVE", "0"),
        ({"OMP_WAIT_POLICY": "active"}, "ACTIVE", "30000000000"),
        ({"GOMP_SPINCOUNT": "1234"}, "PASSIVE", "1234"),
    ],
)
def test_what_libgomp_takes(given: dict[str, str], policy: str, spins: str) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environ = clean | {"OMP_DISPLAY_ENV": "verbose", **given}
    said = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {PATH!r}\n{CODE}"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in said
    assert f"GOMP_SPINCOUNT = '{spins}'" in said


def test_an_environment_of_a_child() -> None:
    environ = {"HOME": "/"}
    with passive_waiting(environ):
        assert environ == {"HOME": "/", "OMP_WAIT_POLICY": "passive"}
    assert environ == {"HOME": "/"}
