"""Making per-layer checkpoints known to transformers.

Apart from `source`: this is all that vLLM's plugin needs, in every process that vLLM starts.
"""

from __future__ import annotations


def register_config() -> None:
    """Let ``AutoConfig``, and with it ``AutoTokenizer`` and vLLM, know per-layer checkpoints.

    The code inside them is then not asked for. May be called repeatedly.
    """
    from transformers import AutoConfig

    from secateur.checkpoint.configuration_secateur import SecateurConfig

    AutoConfig.register(SecateurConfig.model_type, SecateurConfig, exist_ok=True)
