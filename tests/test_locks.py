"""A lock is one process's, and goes when that does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from secateur.locks import is_locked, try_lock

HOLD = """
import sys
from pathlib import Path
from secateur.locks import try_lock
print(try_lock(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline().strip().isdigit()
    assert is_locked(file) and try_lock(file) is None
    holder.kill()
    holder.communicate()
    assert not is_locked(file)
    descriptor = try_lock(file)
    assert descriptor is not None and is_locked(file)
    os.close(descriptor)


def test_nothing_is_made_that_must_exist(tmp_path: Path) -> None:
    folder = try_lock(tmp_path, create=False)
    assert folder is not None
    os.close(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("missing", "link"):
        try:
            try_lock(tmp_path / name, create=False)
        except OSError:
            continue
        raise AssertionError(name)
    assert not (tmp_path / "missing").exists()
