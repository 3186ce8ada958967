"""Entry point ``vllm.general_plugins``: teaches vLLM to load per-layer checkpoints.

vLLM calls `register` in every process it starts (front end, engine core, workers), so it must be
cheap and repeatable; the model class is named, not imported, until a checkpoint asks for it.
"""

from __future__ import annotations


def register() -> None:
    """Make known the configuration class and, lazily, the model class. May be called repeatedly."""
    from vllm import ModelRegistry

    from secateur.slim.registration import register_config

    register_config()
    ModelRegistry.register_model("SecateurForCausalLM", "secateur.slim.vllm_model:SecateurForCausalLM")
