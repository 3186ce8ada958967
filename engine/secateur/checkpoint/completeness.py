"""Does a checkpoint hold exactly the tensors, and the tokens, that its config announces?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from secateur.errors import BrokenCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shape = tuple[int, ...]
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
# Buffers that old exporters stored; every model computes them.
IGNORED_SUFFIX = "rotary_emb.inv_freq"


def check_tensors(config: PreTrainedConfig, stored: Mapping[str, Shape], reference: object) -> None:
    """Compare the stored tensors with those of the model that ``config`` describes.

    The model is built on torch's meta device: names and shapes without memory.

    Raises:
        BrokenCheckpoint: a tensor is missing, has another shape, or belongs to no part of the model.
    """
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in stored]
    if missing:
        raise BrokenCheckpoint("model", reference, f"tensor {_some(missing)} missing from the weights")
    for name, shape in expected.items():
        if stored[name] != shape:
            raise BrokenCheckpoint(
                "model",
                reference,
                f"tensor {name} has shape {list(stored[name])}, its config says {list(shape)}",
            )
    extra = [name for name in stored if name not in expected and not is_redundant(name, config)]
    if extra:
        raise BrokenCheckpoint("model", reference, f"unexpected tensor {_some(extra)} in the weights")


def check_vocabulary(tokens: int, rows: int, reference: object) -> None:
    """Raise `BrokenCheckpoint` when the tokenizer has more tokens than the embedding has rows."""
    if tokens > rows:
        raise BrokenCheckpoint(
            "model",
            reference,
            f"its tokenizer has {tokens} tokens, its embedding only {rows} rows: they do not match",
        )


def is_redundant(name: str, config: PreTrainedConfig) -> bool:
    """Say whether a stored tensor is one that the model does not need (tied head, computed buffer)."""
    return name.endswith(IGNORED_SUFFIX) or (name == HEAD and bool(config.tie_word_embeddings))


def expected_shapes(config: PreTrainedConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of the model that ``config`` describes, a tied head left out."""
    import torch

    with torch.device("meta"):
        model = _model_class(config)(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not is_redundant(name, config)}


def _model_class(config: PreTrainedConfig) -> type:
    if config.model_type == "secateur":
        from secateur.checkpoint.modeling_secateur import SecateurForCausalLM

        return SecateurForCausalLM
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
