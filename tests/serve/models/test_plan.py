"""Whether another engine fits, and what a server serves at its start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secateur.config.serve import EngineOptions
from secateur.serve.engine.footprint import Footprint
from secateur.serve.failures import RpcError
from secateur.serve.models.checkpoint import Checkpoint
from secateur.serve.models.plan import AvailableMemory, plan_memory
from secateur.serve.models.pool import ModelPool
from secateur.serve.models.startup import restore_pool
from secateur.serve.models.tables import ModelRow, StoredModels, VersionRow

MIB = 2**20
EXPLICIT = EngineOptions(kv_cache_bytes=100 * MIB)


def needed(weights: int, memory: AvailableMemory) -> Footprint:
    return Footprint(weights, context=memory.overhead)


def test_what_fits() -> None:
    room = AvailableMemory(400 * MIB, 200 * MIB, 1)
    planned = plan_memory(needed(50 * MIB, room), EXPLICIT, room, {})
    assert planned.fits and planned.needed == 350 * MIB and not planned.unloads


def test_room_for_keys_and_values_is_a_share_if_unsaid() -> None:
    room = AvailableMemory(1250 * MIB, 200 * MIB, 1)
    planned = plan_memory(needed(50 * MIB, room), EngineOptions(), room, {})
    assert planned.fits and planned.kv_cache == 200 * MIB  # 40 % of 1000 MiB, for two engines


def test_only_as_much_is_unloaded_as_has_to_be() -> None:
    room = AvailableMemory(100 * MIB, 200 * MIB, 4)
    kept = {"a/1": 200 * MIB, "b/1": 200 * MIB, "c/1": 200 * MIB}
    assert plan_memory(needed(50 * MIB, room), EXPLICIT, room, kept).unloads == ("a/1", "b/1")
    hopeless = plan_memory(needed(900 * MIB, room), EXPLICIT, room, kept)
    assert not hopeless.fits and not hopeless.unloads


A, B = Checkpoint(Path("/a"), "aaa"), Checkpoint(Path("/b"), "bbb")


def remembered(*versions: VersionRow, active: str | None = "1", given: str = "aaa /a") -> StoredModels:
    row = ModelRow(name="m", active=active, previous=None, numbered=len(versions), given=given)
    return StoredModels([row], {"m": list(versions)}, {"default": "m", "gone": "other"})


def row(version: str, checkpoint: Checkpoint, loaded: bool = True) -> VersionRow:
    facts = {"folder": str(checkpoint.folder), "fingerprint": checkpoint.fingerprint}
    return VersionRow(model="m", version=version, loaded=loaded, created_at=5.0, **facts)


def served(remembered: StoredModels, given: dict[str, Checkpoint]) -> tuple[ModelPool, list[str]]:
    pool = ModelPool()
    return pool, [str(version) for version in restore_pool(pool, remembered, given)]


def test_a_first_start() -> None:
    pool, wanted = served(StoredModels(), {"m": A})
    assert wanted == ["m/1"] and pool.find("m").version == "1" and pool.models["m"].given == "aaa /a"


def test_the_same_command_line_goes_on_where_it_was() -> None:
    pool, wanted = served(remembered(row("1", A, loaded=False), row("2", B), active="2"), {"m": A})
    assert wanted == ["m/2"] and pool.find("").version == "2"
    assert pool.aliases == {"default": "m"}


def test_what_is_to_be_loaded_is_loading_at_once() -> None:
    """Between the restart and its turn to load, callers are told to come back, not that it is unloaded."""
    pool, _ = served(remembered(row("1", A, loaded=False), row("2", B), active="2"), {"m": A})
    with pytest.raises(RpcError) as refusal:
        pool.find("m").ready_engine()
    assert refusal.value.reason == "MODEL_LOADING"
    with pytest.raises(RpcError) as unloaded:
        pool.find("m", "1").ready_engine()
    assert unloaded.value.reason == "VERSION_NOT_LOADED"


def test_another_folder_wins() -> None:
    pool, wanted = served(remembered(row("1", A)), {"m": B})
    assert wanted[0] == "m/2" and pool.models["m"].previous == "1"


def test_a_folder_that_was_overwritten_wins_and_leaves_nothing_behind() -> None:
    pool, wanted = served(remembered(row("1", A)), {"m": replace(A, fingerprint="new")})
    assert wanted == ["m/2"] and list(pool.models["m"].versions) == ["2"]
    assert pool.models["m"].previous is None


def test_what_is_not_given_any_more_is_forgotten_unless_it_came_through_the_api() -> None:
    assert served(remembered(row("1", A)), {"x": B})[1] == ["x/1"]
    assert served(remembered(row("1", A), given=""), {"x": B})[1] == ["m/1", "x/1"]


def test_a_model_given_the_name_of_an_alias_takes_it() -> None:
    pool, _ = served(remembered(row("1", A)), {"m": A, "default": B})
    assert not pool.aliases and pool.find("").name == "default"
