"""What each call of ModelService answers to bad requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from secateur.client import CallFailed
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
    (M.LoadModelVersionRequest(name="m", folder="/etc"), "PERMISSION_DENIED PATH_NOT_ALLOWED", "folder"),
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
        (tmp_path / "file").touch()
        for name in ("none", "file"):
            await refused(client.models.load("m", str(tmp_path / name)), "INVALID_ARGUMENT", "INVALID_FIELD")


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
