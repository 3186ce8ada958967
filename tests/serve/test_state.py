"""The server's database is for its user alone, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import text

from secateur.serve.state import open_state


def test_nobody_else_reads_the_database(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_state(f"sqlite:///{tmp_path}/state/server.db")() as session:
            session.execute(text("CREATE TABLE written (number INTEGER)"))
            session.commit()
            modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir()}
    finally:
        os.umask(before)
    assert modes["server.db"] == 0o600 and "server.db-wal" in modes
    assert set(modes.values()) == {0o600}
