"""Only what lies below a root may be named, and nothing is told about what lies elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from google.rpc import code_pb2

from secateur.serve.failures import RpcError
from secateur.serve.guard.roots import resolve_within_roots


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "root-too").mkdir()
    return folder.resolve()


def refusal_of(text: str, *roots: Path) -> RpcError:
    with pytest.raises(RpcError) as refusal:
        resolve_within_roots("folder", text, roots)
    assert [one.field for one in refusal.value.violations] == ["folder"]
    return refusal.value


def test_below_a_root(root: Path) -> None:
    for text in (f"{root}/model", f"{root}/model/../model/.", "model", "./model"):
        assert resolve_within_roots("folder", text, [root]) == root / "model"
    os.symlink(root / "model", root / "link")
    assert resolve_within_roots("folder", "link", [root]) == root / "model"
    assert resolve_within_roots("file", "model/config.json", [root]) == root / "model" / "config.json"
    assert resolve_within_roots("folder", "model", [root.parent / "root-too", root]) == root / "model"


def test_what_lies_elsewhere_is_not_told(root: Path) -> None:
    os.symlink(root.parent / "secret", root / "out")
    there = [f"{root}/../secret", "../secret", f"{root}/out", f"{root.parent}/root-too", "/", "/etc/passwd"]
    not_there = [f"{root}/../nothing", "../nothing", "/nothing", f"{root}/out/nothing"]
    refusals = {text: refusal_of(text, root) for text in (*there, *not_there)}
    assert {(one.code, one.reason) for one in refusals.values()} == {
        (code_pb2.PERMISSION_DENIED, "PATH_NOT_ALLOWED")
    }
    assert {one.message.replace(f"got {text},", "got ...,") for text, one in refusals.items()} == {
        f"folder: got ..., allowed are paths below {root}"
    }


def test_files_that_lead_elsewhere(root: Path) -> None:
    (root.parent / "secret" / "model.safetensors").write_text("x")
    os.symlink(root.parent / "secret" / "model.safetensors", root / "model" / "model.safetensors")
    assert refusal_of("model", root).reason == "PATH_NOT_ALLOWED"
    # Within the root they may: hub caches are made of such links.
    os.remove(root / "model" / "model.safetensors")
    shutil.move(root.parent / "secret" / "model.safetensors", root / "blob")
    os.symlink(root / "blob", root / "model" / "model.safetensors")
    assert resolve_within_roots("folder", "model", [root]) == root / "model"


@pytest.mark.parametrize("text", ["", "/root\0/model", "n" * 5000, "loop", "nothing", "~/model"])
def test_what_is_no_path_or_not_there(root: Path, text: str) -> None:
    os.symlink(root / "loop", root / "loop")
    assert refusal_of(text, root).code == code_pb2.INVALID_ARGUMENT


def test_without_roots_clients_name_nothing(root: Path) -> None:
    refusal = refusal_of(f"{root}/model")
    assert refusal.code == code_pb2.PERMISSION_DENIED and "opens no folder" in refusal.message
