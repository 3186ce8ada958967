"""Does a checkpoint hold exactly the tensors, and the tokens, that its config announces, and only numbers?"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from secateur.errors import BadInput, BrokenCheckpoint

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from transformers import PreTrainedConfig

Shape = tuple[int, ...]
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
# Buffers that old exporters stored; every model computes them.
IGNORED_SUFFIX = "rotary_emb.inv_freq"
NAMED_TOKENS = 5


def check_tensors(config: PreTrainedConfig, stored: Mapping[str, Shape], reference: object) -> None:
    """Compare the stored tensors with those of the model that ``config`` describes.

    The model is built on torch's meta device: names and shapes without memory.

    Raises:
        BrokenCheckpoint: a tensor is missing, has another shape, or belongs to no part of the model.
    """
    expected = expected_shapes(config)
    if HEAD in stored:  # also where the config says that it is tied: what is stored is used
        expected[HEAD] = expected[EMBEDDING]
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
    extra = [name for name in stored if name not in expected and not name.endswith(IGNORED_SUFFIX)]
    if extra:
        raise BrokenCheckpoint("model", reference, f"unexpected tensor {_some(extra)} in the weights")


def check_vocabulary(extra: Sequence[str], rows: int, reference: object) -> None:
    """Check that no token is without a row in the embedding.

    Args:
        extra: the tokens that are.

    Raises:
        BrokenCheckpoint: there are some; names the first of them.
    """
    if extra:
        names = ", ".join(repr(token) for token in extra[:NAMED_TOKENS])
        more = f" and {len(extra) - NAMED_TOKENS} more" if len(extra) > NAMED_TOKENS else ""
        raise BrokenCheckpoint(
            "model",
            reference,
            f"its tokenizer has {rows + len(extra)} tokens, its embedding only {rows} rows: none for "
            f"{names}{more}; `drop_extra_tokens` of prune and evaluate leaves them out",
        )


def without_redundant(tensors: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
    """Leave out computed buffers, and a head that the config ties to the embedding and that equals it.

    A head that differs is the model's own, whatever the config says: transformers 5 and vLLM use it too.
    """
    import torch

    def redundant(name: str) -> bool:
        tied = name == HEAD and bool(config.tie_word_embeddings)
        return name.endswith(IGNORED_SUFFIX) or (tied and torch.equal(tensors[HEAD], tensors[EMBEDDING]))

    return {name: tensor for name, tensor in tensors.items() if not redundant(name)}


def check_finite(tensors: Mapping[str, Tensor], reference: object) -> None:
    """Check that all weights are numbers, in one pass over them.

    Raises:
        BrokenCheckpoint: some are NaN or infinite; names the first tensor that has such values.
    """
    import torch

    damaged = [name for name, tensor in tensors.items() if not math.isfinite(_largest(tensor))]
    if damaged:
        count = int((~torch.isfinite(tensors[damaged[0]].float())).sum())
        others = f" ({len(damaged) - 1} more tensors have such values)" if len(damaged) > 1 else ""
        raise BrokenCheckpoint(
            "model", reference, f"{count:,} NaN or infinite values in tensor {damaged[0]}{others}"
        )


def check_range(tensors: Mapping[str, Tensor], dtype: dtype) -> None:
    """Check that finite weights stay finite in another dtype.

    Raises:
        BadInput: they do not; names the first tensor and its largest value.
    """
    import torch

    limit = torch.finfo(dtype).max
    for name, tensor in tensors.items():
        if torch.finfo(tensor.dtype).max > limit and (largest := _largest(tensor)) > limit:
            reason = f"tensor {name} has values up to {largest:.3g}, {limit:.3g} is the largest it can hold"
            raise BadInput("dtype", str(dtype).removeprefix("torch."), reason)


def _largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN where there is one."""
    values = tensor.float() if tensor.element_size() == 1 else tensor  # torch cannot compare 8-bit floats
    low, high = (float(bound) for bound in values.aminmax())
    return math.nan if math.isnan(low) or math.isnan(high) else max(-low, high)


def expected_shapes(config: PreTrainedConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of the model that ``config`` describes, a tied head left out."""
    import torch

    config = copy.copy(config)
    config.pad_token_id = None  # changes no shape; one that has no row could not be built
    with torch.device("meta"):
        model = _model_class(config)(config)
    tied = bool(config.tie_word_embeddings)
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not (name.endswith(IGNORED_SUFFIX) or (tied and name == HEAD))
    }


def _model_class(config: PreTrainedConfig) -> type:
    if config.model_type == "secateur":
        from secateur.checkpoint.modeling_secateur import SecateurForCausalLM

        return SecateurForCausalLM
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
