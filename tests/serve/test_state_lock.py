"""A state folder is one server's at a time, and a database may be several servers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.errors import BadInput
from secateur.serve.models.tables import ModelRow, ModelStore
from secateur.serve.state import open_state
from secateur.serve.state_lock import acquire_state_lock, release_state_lock


def test_one_server_at_a_time(tmp_path: Path) -> None:
    first = acquire_state_lock(tmp_path / "state")
    second = acquire_state_lock(tmp_path / "state")
    assert not first.shared and second.shared and first.name != second.name
    release_state_lock(second)
    release_state_lock(first)
    third = acquire_state_lock(tmp_path / "state")
    assert (third.name, third.shared) == (first.name, False)
    assert acquire_state_lock(tmp_path / "other").name != first.name
    release_state_lock(third)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="state_dir"):
        acquire_state_lock(tmp_path / "file")


def test_servers_share_a_database(tmp_path: Path) -> None:
    sessions = open_state(f"sqlite:///{tmp_path}/server.db")
    mine, yours = ModelStore(sessions, "mine"), ModelStore(sessions, "yours")
    mine.put(ModelRow(name="m", active="1"))
    yours.put(ModelRow(name="m", active="2"))
    yours.put_alias("default", "m")
    assert [row.active for row in mine.read().models] == ["1"] and not mine.read().aliases
    yours.forget_all()
    assert [row.active for row in mine.read().models] == ["1"] and not yours.read().models
