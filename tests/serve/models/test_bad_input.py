"""What each call of ModelService answers to bad requests; and which folders a client may name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from secateur.client import CallFailed
from secateur.serve.failures import Refused
from secateur.serve.models.folders import confined
from secateur.v1 import models_pb2, models_pb2_grpc
from tests.serve.models.conftest import House, refused

M = models_pb2
LONG = "n" * 65


INVALID, MISSING = "INVALID_ARGUMENT INVALID_FIELD", "NOT_FOUND MODEL_NOT_FOUND"
MISSING_VERSION = "NOT_FOUND VERSION_NOT_FOUND"
# Request, code and reason, field at fault.
BAD: list[tuple[Any, str, str]] = [
    (M.ListModelsRequest(page_size=-1), INVALID, "page_size"),
    (M.GetModelRequest(name="no"), MISSING, ""),
    (M.GetModelRequest(name="../../etc"), MISSING, ""),
    (M.GetModelVersionRequest(name="m", version="9"), MISSING_VERSION, ""),
    (M.LoadModelVersionRequest(name="m"), INVALID, "source"),
    (M.LoadModelVersionRequest(name="m", folder=""), INVALID, "folder"),
    (M.LoadModelVersionRequest(name="m", folder="relative/path"), INVALID, "folder"),
    (M.LoadModelVersionRequest(name="m", folder="/etc"), "PERMISSION_DENIED FOLDER_NOT_ALLOWED", ""),
    (M.LoadModelVersionRequest(name="m", version="x"), MISSING_VERSION, ""),
    (M.LoadModelVersionRequest(name="no", version="1"), MISSING, ""),
    (M.LoadModelVersionRequest(version="1"), INVALID, "name"),
    (M.ActivateModelVersionRequest(name="m"), INVALID, "version"),
    (M.ActivateModelVersionRequest(name="m", version="9", validate_only=True), MISSING_VERSION, ""),
    (M.RollbackModelRequest(), INVALID, "name"),
    (M.RollbackModelRequest(name="m"), "FAILED_PRECONDITION NO_PREVIOUS_VERSION", ""),
    (M.UnloadModelVersionRequest(name="m", version="9"), MISSING_VERSION, ""),
    (M.DeleteModelVersionRequest(name="no", version="1"), MISSING, ""),
    (M.SetAliasRequest(alias="../x", model="m"), INVALID, "alias"),
    (M.SetAliasRequest(alias="x"), INVALID, "model"),
    (M.SetAliasRequest(alias="x", model="no"), MISSING, ""),
    (M.SetAliasRequest(alias="m", model="m"), "ALREADY_EXISTS NAME_TAKEN", ""),
    (M.DeleteAliasRequest(alias="no"), "NOT_FOUND ALIAS_NOT_FOUND", ""),
]


@pytest.mark.parametrize(("request_", "answer", "field"), BAD)
async def test_bad_requests(house: House, request_: Any, answer: str, field: str) -> None:
    stub = models_pb2_grpc.ModelServiceStub(house.channel)
    method = getattr(stub, request_.DESCRIPTOR.name.removesuffix("Request"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await method(request_, timeout=10)
    failure = CallFailed("there", error.value)
    assert f"{failure.code.name} {failure.reason}" == answer
    named = error_details_pb2.BadRequest()
    found = [detail.Unpack(named) for detail in failure.details]
    assert any(found) == bool(field)
    assert [one.field for one in named.field_violations] == ([field] if field else [])
    assert (await house.client().models.get("m")).active_version == "1"


@pytest.mark.parametrize("name", ["", "a b", "../m", "a/b", LONG, "m\n", "ü"])
async def test_bad_names_of_new_models(house: House, second: Path, name: str) -> None:
    failure = await refused(
        house.client().models.load(name, str(second)), "INVALID_ARGUMENT", "INVALID_FIELD"
    )
    assert "name: got" in str(failure)


async def test_folders_that_are_no_checkpoints(
    open_house: Any, second: Path, tmp_path: Path, editable: Callable[[Path], Path]
) -> None:
    async with open_house(roots=(tmp_path,)) as house:
        client = house.client()
        (tmp_path / "empty").mkdir()
        cut = editable(second)
        (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
        for folder in (tmp_path / "empty", cut):
            failure = await refused(
                client.models.load("m", str(folder)), "FAILED_PRECONDITION", "CHECKPOINT_REFUSED"
            )
            assert f"folder: got {folder}" in str(failure)
        await refused(client.models.load("m", str(tmp_path / "none")), "INVALID_ARGUMENT", "INVALID_FIELD")


async def test_code_in_a_checkpoint_is_not_run(
    open_house: Any, second: Path, tmp_path: Path, editable: Callable[[Path], Path]
) -> None:
    """Before an engine is started; the engine itself is never told to trust it."""
    folder = editable(second)
    config = (folder / "config.json").read_text()
    config = config.replace('"model_type": "llama"', '"model_type": "evil"')
    auto_map = '"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},'
    (folder / "config.json").write_text(config.replace("{", "{" + auto_map, 1))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    async with open_house(roots=(tmp_path,)) as house:
        try:
            await house.client().models.load("m", str(folder))
        except CallFailed as failure:
            assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert not (tmp_path / "run").exists()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "root-too").mkdir()
    return folder.resolve()


def reason_of(text: str, root: Path) -> tuple[str, str]:
    with pytest.raises(Refused) as refusal:
        confined("folder", text, [root])
    return refusal.value.reason, refusal.value.message.replace(text, "...")


def test_folders_below_a_root(root: Path) -> None:
    assert confined("folder", f"{root}/model", [root]) == root / "model"
    assert confined("folder", f"{root}/model/../model/.", [root]) == root / "model"
    os.symlink(root / "model", root / "link")
    assert confined("folder", f"{root}/link", [root]) == root / "model"


def test_what_lies_elsewhere_is_not_told(root: Path) -> None:
    os.symlink(root.parent / "secret", root / "out")
    there = [f"{root}/../secret", f"{root}/out", f"{root.parent}/root-too", "/", "/etc/passwd"]
    not_there = [f"{root}/../nothing", "/nothing", f"{root}/out/nothing"]
    answers = {reason_of(text, root) for text in (*there, *not_there)}
    assert len(answers) == 1 and answers.pop()[0] == "FOLDER_NOT_ALLOWED"


def test_files_that_lead_elsewhere(root: Path) -> None:
    (root.parent / "secret" / "model.safetensors").write_text("x")
    os.symlink(root.parent / "secret" / "model.safetensors", root / "model" / "model.safetensors")
    assert reason_of(f"{root}/model", root)[0] == "FOLDER_NOT_ALLOWED"
    # Within the root they may: hub caches are made of such links.
    os.remove(root / "model" / "model.safetensors")
    shutil.move(root.parent / "secret" / "model.safetensors", root / "blob")
    os.symlink(root / "blob", root / "model" / "model.safetensors")
    assert confined("folder", f"{root}/model", [root]) == root / "model"


@pytest.mark.parametrize("text", ["", "model", "./model", "~/model", "/root\0/model"])
def test_what_is_no_absolute_path(root: Path, text: str) -> None:
    with pytest.raises(Refused, match="absolute path"):
        confined("folder", text, [root])


def test_without_roots_clients_name_nothing(root: Path) -> None:
    with pytest.raises(Refused, match="--roots"):
        confined("folder", f"{root}/model", [])
