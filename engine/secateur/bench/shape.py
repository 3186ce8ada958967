"""What a model's step has to read and to compute, by its configuration and weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import BadInput

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class DecoderShape:
    """Of a decoder.

    Attributes:
        heads, kv_heads: query and key/value heads by layer; 0 where attention is removed.
        head_dim: numbers per head.
        parameters: of all weights.
        embedding: of the embedding; the head has as many.
        tied: whether embedding and head are the same weights.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    parameters: int
    embedding: int
    tied: bool

    def kv_bytes_per_token(self, dtype: str) -> int:
        """A key and a value per head and layer."""
        return sum(self.kv_heads) * 2 * self.head_dim * DTYPE_BYTES[dtype]

    def decode_bytes(self, batch: int, context: int, dtype: str) -> int:
        """Least to be read for a token of each of `batch` sequences of `context` tokens: weights and caches.

        Of an embedding that is not the head, one row per token is read; that is nothing.
        """
        weights = self.parameters - (0 if self.tied else self.embedding)
        return weights * DTYPE_BYTES[dtype] + batch * context * self.kv_bytes_per_token(dtype)

    def decode_flops(self, batch: int, context: int) -> int:
        """Least to be computed for the same: every weight once per token, and attention."""
        return batch * (2 * (self._layers + self.embedding) + 4 * context * sum(self.heads) * self.head_dim)

    def prefill_flops(self, batch: int, tokens: int) -> int:
        """Least to be computed for prompts of so many tokens: attention looks back, the head at the last."""
        attention = 2 * tokens * tokens * sum(self.heads) * self.head_dim
        return batch * (2 * self._layers * tokens + attention + 2 * self.embedding)

    @property
    def _layers(self) -> int:
        return self.parameters - self.embedding * (1 if self.tied else 2)


def read_shape(folder: Path, config: Mapping[str, Any]) -> DecoderShape:
    """The shape of a checkpoint.

    Args:
        folder: of the checkpoint.
        config: its configuration.

    Raises:
        BadInput: there are no weight files.
    """
    heads, shared = int(config["num_attention_heads"]), config.get("num_key_value_heads")
    overrides = {int(layer): override for layer, override in (config.get("per_layer_config") or {}).items()}
    layer_heads = [
        _heads(overrides.get(layer, {}), heads, shared) for layer in range(config["num_hidden_layers"])
    ]
    return DecoderShape(
        heads=tuple(queries for queries, _ in layer_heads),
        kv_heads=tuple(keys for _, keys in layer_heads),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
        parameters=count_parameters(folder),
        embedding=int(config["vocab_size"]) * int(config["hidden_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _heads(override: Mapping[str, Any], heads: int, shared: int | None) -> tuple[int, int]:
    """Query and key/value heads of a layer with these overrides."""
    if "attention" in (override.get("skip") or ()):
        return 0, 0
    queries = int(override.get("num_attention_heads", heads))
    return queries, int(override.get("num_key_value_heads", shared or queries))


def count_parameters(folder: Path) -> int:
    """Numbers in the weight files.

    Raises:
        BadInput: there are no weight files.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadInput("checkpoint", folder, "no *.safetensors file")
    total = 0
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118  (not a mapping)
                    count = 1
                    for size in tensors.get_slice(key).get_shape():
                        count *= size
                    total += count
        except SafetensorError as error:
            raise BadInput("checkpoint", file, f"cannot be read: {error}") from error
    return total
