"""Makes transformers in this process know per-layer checkpoints without running the code inside them."""

from __future__ import annotations


def register_config() -> None:
    """Let ``AutoConfig``, and with it ``AutoTokenizer`` and vLLM, use our class. May be called repeatedly."""
    from transformers import AutoConfig

    from secateur.checkpoint.configuration_secateur import SecateurConfig

    AutoConfig.register(SecateurConfig.model_type, SecateurConfig, exist_ok=True)
