"""The plugin beside a vLLM that is there: it needs none of the engine's other dependencies.

Over the import graph: everything that the plugin imports, directly or not, is of the standard library, of
secateur, or comes with vLLM. So ``pip install --no-deps secateur`` into a vLLM image is enough.
"""

from __future__ import annotations

import sys

import grimp

WITH_VLLM = {"torch", "transformers", "vllm", "numpy"}
PLUGIN = "secateur.vllm_plugin"


def test_the_plugin_needs_what_comes_with_vllm() -> None:
    graph = grimp.build_graph("secateur", include_external_packages=True, cache_dir=None)
    plugin = {PLUGIN, *graph.find_descendants(PLUGIN)}
    needed = plugin.union(*(graph.find_upstream_modules(module) for module in plugin))
    foreign = {module.partition(".")[0] for module in needed} - {"secateur"} - sys.stdlib_module_names
    assert foreign <= WITH_VLLM
    assert foreign >= {"torch", "vllm"}  # the graph sees imports inside functions
    own = {module for module in needed if module.startswith("secateur.")} - plugin
    assert own == {"secateur.checkpoint.configuration_secateur"}
