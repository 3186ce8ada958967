"""Engines on GPUs: what vLLM is told for recorded figures of memory, and what it says to that.

No GPU is needed. `request_memory` is vLLM's own: it decides whether an engine may start.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur.config.serve import EngineOptions
from secateur.errors import BackendUnavailable
from secateur.serve.engine import engine
from secateur.serve.engine.device_memory import DeviceMemory
from secateur.serve.models.checkpoint import Checkpoint
from secateur.serve.models.plan import AvailableMemory, MemoryPlan, plan_memory, plan_start

GIB = 2**30
H100 = DeviceMemory(total=85_028_765_696, free=84_488_945_664)
"""What ``torch.cuda.mem_get_info`` says of an H100 of 80 GB that nobody uses."""

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
PARAMETERS_8B = 8_030_261_248


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "on_cpu", lambda: False)
    monkeypatch.setattr(engine, "kernel_choice", lambda compiled: {})
    monkeypatch.setattr(engine, "device_count", lambda: 4)


@pytest.fixture
def llama(tmp_path: Path) -> Checkpoint:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return Checkpoint(tmp_path, "f", "llama", 2 * PARAMETERS_8B, PARAMETERS_8B)


def memory(device: DeviceMemory, running: int = 0, ranks: int = 1) -> AvailableMemory:
    return AvailableMemory(device.free * ranks, 0, running, device)


def told(plan: MemoryPlan, options: EngineOptions, checkpoint: Checkpoint) -> dict[str, Any]:
    return engine.engine_arguments(checkpoint.folder, plan.applied_to(options), 1)


def started(device: DeviceMemory, plan: MemoryPlan, ranks: int = 1) -> DeviceMemory:
    """The GPU once an engine holds what was planned."""
    return replace(device, free=device.free - plan.needed // ranks)


def vllm_lets_start(device: DeviceMemory, told: dict[str, Any]) -> bool:
    """Ask vLLM's own check, on a snapshot of its own class."""
    pytest.importorskip("vllm")
    from vllm.config import CacheConfig
    from vllm.utils.mem_utils import MemorySnapshot
    from vllm.v1.worker.utils import request_memory

    snapshot = MemorySnapshot(
        free_memory=device.free, total_memory=device.total, device="cpu", auto_measure=False
    )
    cache = CacheConfig(gpu_memory_utilization=told["gpu_memory_utilization"])
    try:
        return request_memory(snapshot, cache) > 0
    except ValueError:
        return False


def test_two_engines_share_a_gpu(llama: Checkpoint) -> None:
    """The first leaves room for a second, which vLLM then lets start: so a hot swap is possible."""
    options = EngineOptions()
    (first,) = plan_start([llama], options, memory(H100))
    assert first.fits and first.weights == pytest.approx(2 * PARAMETERS_8B, rel=1e-6)
    assert 0.43 * H100.total < first.needed < 0.45 * H100.total  # half of 90 %
    first_told = told(first, options, llama)
    assert first_told["kv_cache_memory_bytes"] == first.kv_cache > 15 * GIB
    assert vllm_lets_start(H100, first_told)

    beside = started(H100, first)
    assert not vllm_lets_start(beside, {"gpu_memory_utilization": 0.92})  # what vLLM wants by default
    second = plan_memory(memory(beside).footprint(llama, options), options, memory(beside, 1), {})
    assert second.fits and second.kv_cache == pytest.approx(first.kv_cache, rel=1e-3)
    assert vllm_lets_start(beside, told(second, options, llama))
    assert started(beside, second).free > 0.09 * H100.total

    full = started(beside, second)
    third = plan_memory(memory(full).footprint(llama, options), options, memory(full, 2), {})
    assert not third.fits and not vllm_lets_start(full, told(third, options, llama))
    room = {"m/1": first.needed}
    swapped = plan_memory(memory(full).footprint(llama, options), options, memory(full, 2), room)
    assert swapped.fits and swapped.unloads == ("m/1",)


def test_without_a_swap_one_engine_gets_all(llama: Checkpoint) -> None:
    (alone,) = plan_start([llama], EngineOptions(engines=1), memory(H100))
    assert 0.88 * H100.total < alone.needed <= 0.9 * H100.total


def test_models_of_a_command_line_get_the_same_room(llama: Checkpoint, tmp_path: Path) -> None:
    small = replace(llama, parameters=PARAMETERS_8B // 4, weight_bytes=PARAMETERS_8B // 2)
    plans = plan_start([llama, small], EngineOptions(engines=2), memory(H100))
    assert plans[0].kv_cache == plans[1].kv_cache and plans[0].weights > 2 * plans[1].weights
    assert sum(plan.needed for plan in plans) <= 0.9 * H100.total


def test_room_for_a_swap_is_given_up_where_it_would_be_missed(llama: Checkpoint) -> None:
    a24 = DeviceMemory(24 * GIB, 24 * GIB - 400 * 2**20)
    (plan,) = plan_start([llama], EngineOptions(), memory(a24))
    assert plan.fits and vllm_lets_start(a24, told(plan, EngineOptions(), llama))
    (plan,) = plan_start([llama], EngineOptions(engines=2), memory(a24))
    assert not plan.fits


def test_room_that_was_asked_for(llama: Checkpoint) -> None:
    options = EngineOptions(kv_cache_bytes=4 * GIB)
    (plan,) = plan_start([llama], options, memory(H100))
    assert plan.fits and told(plan, options, llama)["kv_cache_memory_bytes"] == 4 * GIB
    assert plan.device_fraction == pytest.approx(plan.needed / H100.total)
    (plan,) = plan_start([llama], replace(options, kv_cache_bytes=70 * GIB), memory(H100))
    assert not plan.fits


def test_a_context_that_no_request_could_fill(llama: Checkpoint) -> None:
    """131,072 tokens of an 8B model take 16 GiB: with less vLLM would refuse to start."""
    options = EngineOptions(max_model_len=131072, kv_cache_bytes=15 * GIB)
    assert not plan_start([llama], options, memory(H100))[0].fits
    assert plan_start([llama], replace(options, kv_cache_bytes=16 * GIB), memory(H100))[0].fits


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_model_on_several_gpus(ranks: int, llama: Checkpoint) -> None:
    options = EngineOptions(tensor_parallel=ranks)
    (plan,) = plan_start([llama], options, memory(H100, ranks=ranks))
    one = started(H100, plan, ranks)
    assert plan.weights == pytest.approx(2 * PARAMETERS_8B, rel=1e-6)  # in all
    assert plan.needed / ranks == pytest.approx(0.9 * H100.total / 2, rel=0.02)
    arguments_of_vllm = told(plan, options, llama)
    assert arguments_of_vllm["tensor_parallel_size"] == ranks
    assert arguments_of_vllm["pipeline_parallel_size"] == 1
    assert arguments_of_vllm["distributed_executor_backend"] == "mp"
    assert arguments_of_vllm["kv_cache_memory_bytes"] == plan.kv_cache // ranks  # vLLM counts by GPU
    assert vllm_lets_start(H100, arguments_of_vllm)
    second = plan_memory(memory(one).footprint(llama, options), options, memory(one, 1, ranks), {})
    assert second.fits and vllm_lets_start(one, told(second, options, llama))


def test_stages_are_as_large_as_the_fullest(llama: Checkpoint) -> None:
    stages = EngineOptions(pipeline_parallel=2)
    halves = memory(H100, ranks=2).footprint(llama, stages)
    embedding = 2 * LLAMA_8B["vocab_size"] * LLAMA_8B["hidden_size"]
    assert halves.weights == pytest.approx(PARAMETERS_8B, abs=embedding)
    assert halves.kv_per_token == memory(H100).footprint(llama, EngineOptions()).kv_per_token / 2


def test_more_gpus_than_there_are_here(llama: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    options = EngineOptions(tensor_parallel=4, pipeline_parallel=2)
    (plan,) = plan_start([llama], options, memory(H100, ranks=8))
    monkeypatch.setattr("secateur.serve.engine.sharding.find_spec", lambda name: sys)
    assert told(plan, options, llama)["distributed_executor_backend"] == "ray"
    monkeypatch.setattr("secateur.serve.engine.sharding.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"8 GPUs, 4 of them here: others are reached through Ray"):
        told(plan, options, llama)


def test_what_engines_took_is_said_beside_the_plan(llama: Checkpoint) -> None:
    (plan,) = plan_start([llama], EngineOptions(), memory(H100))
    now = memory(replace(H100, free=H100.free - plan.needed - GIB))
    assert now.taken_since(H100.free, plan.needed) == "took 36.4 GiB of GPU memory, more than 35.4 planned"
    assert memory(started(H100, plan)).taken_since(H100.free, plan.needed).endswith(", of 35.4 planned")
