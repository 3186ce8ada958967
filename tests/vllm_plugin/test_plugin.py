"""The vLLM plugin: found by its entry point, lazy, repeatable. (Its numbers: tests/serve/test_score.py.)"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from secateur.vllm_plugin import plugin as vllm_plugin


def test_entry_point_is_registered() -> None:
    (plugin,) = (entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "secateur")
    assert plugin.load() is vllm_plugin.register


def test_registration_is_repeatable_and_imports_no_model() -> None:
    pytest.importorskip("vllm")
    script = """
import sys
from secateur.vllm_plugin.plugin import register
register(); register()
assert "secateur.vllm_plugin.model" not in sys.modules
assert "vllm.model_executor.models.llama" not in sys.modules
from vllm import ModelRegistry
assert "SecateurForCausalLM" in ModelRegistry.get_supported_archs()
from transformers import AutoConfig
assert type(AutoConfig.for_model("secateur")).__module__ == "secateur.checkpoint.configuration_secateur"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
