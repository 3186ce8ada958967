"""Entry point ``vllm.general_plugins``: teaches vLLM to load per-layer checkpoints.

vLLM calls `register` in every process it starts (front end, engine core, workers), so it must be
cheap and repeatable; the model class is named, not imported, until a checkpoint asks for it.
"""

from __future__ import annotations


def register() -> None:
    """Make known the configuration class and, lazily, the model class. May be called repeatedly."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from secateur.slim.configuration_secateur import SecateurConfig

    AutoConfig.register(SecateurConfig.model_type, SecateurConfig, exist_ok=True)
    ModelRegistry.register_model("SecateurForCausalLM", "secateur.slim.vllm_model:SecateurForCausalLM")
